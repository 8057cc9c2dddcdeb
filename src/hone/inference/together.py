"""TogetherEngine: answers of many requests at once, drawn in rows of one batch by a transformers model in this process.

Does not know how rows are drawn, nor where the answers go.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator

from torch import nn

from hone.chat.codec import Codec
from hone.inference.asked import Asked
from hone.inference.base import Request
from hone.inference.hf import HfEngine
from hone.inference.rows import Row, Rows
from hone.inference.steering import Steer

_END = object()


class _Job:
    """A row and who waits for its tokens."""

    def __init__(self, row: Row):
        self.row = row
        self.told: queue.SimpleQueue = queue.SimpleQueue()
        self.left = threading.Event()


class TogetherEngine(HfEngine):
    """An HfEngine whose `generate` may be called by many threads at once: up to `num_rows` answers are drawn together.

    Each draws by its own seed; others beside it change its numbers by the rounding of a larger product, and nothing else. A
    beam search is drawn by itself, while the others wait. module: one of which rows.why_not knows no reason.
    """

    def __init__(self, module: nn.Module, codec: Codec, *, num_rows: int, base_name: str = ""):
        super().__init__(module, codec, base_name=base_name)
        self.num_together = num_rows
        self._jobs = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._running = False

    def _ids(self, request: Request, asked: Asked, num_new: int, steer: Steer | None) -> Iterator[int]:
        if request.settings.num_beams > 1:
            yield from super()._ids(request, asked, num_new, steer)
            return
        settings = self._settings(request, num_new, steered=True)
        job = _Job(Row(asked, settings, seed=request.seed, steer=steer, adapter=request.adapter))
        with self._jobs:
            self._waiting.append(job)
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="rows", daemon=True).start()
        try:
            while (item := job.told.get()) is not _END:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            job.left.set()

    def _work(self) -> None:
        """Draw until nobody waits any more."""
        rows, jobs = Rows(self.module, self._adapters.rows), []
        while True:
            with self._jobs:
                jobs += [self._waiting.popleft() for _ in range(min(self.num_together - len(jobs), len(self._waiting)))]
                if not jobs:
                    self._running = False
                    return
            try:
                with self._turn:
                    jobs = self._drawn_once(rows, jobs)
            except BaseException as fault:
                for job in jobs:
                    job.told.put(fault)
                rows, jobs = Rows(self.module, self._adapters.rows), []

    def _drawn_once(self, rows: Rows, jobs: list[_Job]) -> list[_Job]:
        """One token for each job; those that go on."""
        jobs = [job for job in jobs if not job.left.is_set()]
        rows.keep([job.row for job in jobs])
        rows.step()
        inside, left = list(rows.rows), []
        for job in jobs:
            if job.row not in inside and not self._joined(rows, job):
                continue
            if job.row.fault is not None:
                job.told.put(job.row.fault)
                continue
            job.told.put(job.row.ids[-1])
            if job.row.done:
                job.told.put(_END)
            else:
                left.append(job)
        rows.keep([job.row for job in left])
        return left

    def _joined(self, rows: Rows, job: _Job) -> bool:
        """Whether a new job has its first token; what is wrong with its prompt or its steering is told to it alone."""
        try:
            rows.join(job.row)
        except Exception as fault:
            job.told.put(fault)
            return False
        return True
