"""Feed: the micro-batches of each optimizer step for one process, laid out while the step before is computed.

Does not know the order of samples (Steps decides it) nor what is computed from a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from hone.data.batch import Batch, pack, pad, share
from hone.data.build import TokenSet
from hone.data.order import Steps
from hone.models.forward import Packing
from hone.training.courier import Courier, Sent


@dataclass(frozen=True)
class MicroBatch:
    """counts: False for a repeat that only keeps this process in step with those that have one batch more.

    metrics: figures as (sum, count) that are known before the loss is, such as rewards.
    """

    batch: Batch
    counts: bool
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def lay_out(tokens: TokenSet, rows: list[int], *, packing: Packing, pad_id: int) -> Batch:
    """The examples of `rows` as one batch, with the numbers that the set keeps aside of their sequences."""
    examples = [tokens[row] for row in rows]
    aside = {name: numbers[rows].reshape(-1).tolist() for name, numbers in tokens.aside.items()}
    if packing == "padded":
        return pad(examples, pad_id, rows, aside)
    return (share if packing == "shared" else pack)(examples, rows, aside)


AHEAD = 2
"""Steps that are laid out before they are asked for: one may take longer than the step that is computed meanwhile."""


class Feed:
    """`feed.steps(k, n)` yields the micro-batches of steps k to n - 1, on the device where a courier brings them there."""

    def __init__(
        self, tokens: TokenSet, steps: Steps, *, rank: int, packing: Packing, pad_id: int, courier: Courier | None = None
    ):
        self.tokens, self._steps, self._rank = tokens, steps, rank
        self._packing, self._pad_id, self._courier = packing, pad_id, courier

    def step(self, number: int) -> list[MicroBatch]:
        """This process's micro-batches of step `number` (0 is the run's first); as many as on every other process."""
        epoch, index = divmod(number, self._steps.num_steps_per_epoch)
        ranks = self._steps.step(epoch, index)
        mine, most = ranks[self._rank], max(len(batches) for batches in ranks)
        spare = (mine or ranks[0])[-1]
        wanted = [(rows, True) for rows in mine] + [(spare, False)] * (most - len(mine))
        return [MicroBatch(self.lay_out(rows), real) for rows, real in wanted]

    def _sent(self, number: int) -> list[tuple[MicroBatch, Sent | None]]:
        """The micro-batches of a step, on their way to the device."""
        return [(micro, self._courier.send(micro.batch) if self._courier else None) for micro in self.step(number)]

    def _received(self, step: list[tuple[MicroBatch, Sent | None]]) -> list[MicroBatch]:
        return [replace(micro, batch=self._courier.receive(sent)) if self._courier else micro for micro, sent in step]

    def lay_out(self, rows: list[int]) -> Batch:
        """The examples of `rows` as one batch."""
        return lay_out(self.tokens, rows, packing=self._packing, pad_id=self._pad_id)

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint must hold so that step `step` can come next: nothing, it follows from its number."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        assert not state, "a feed of data has no state"

    def close(self) -> None:
        """Nothing to let go of."""

    def steps(self, first: int, end: int) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each step from `first` up to `end`, AHEAD of them prepared by a thread while others are computed.

        What goes wrong there is raised here, when its step is asked for.
        """
        numbers = iter(range(first, end))
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed") as worker:
            coming = deque(worker.submit(self._sent, number) for number in islice(numbers, AHEAD))
            try:
                while coming:
                    step = coming.popleft().result()
                    coming.extend(worker.submit(self._sent, number) for number in islice(numbers, 1))
                    yield self._received(step)
            finally:
                worker.shutdown(wait=True, cancel_futures=True)
