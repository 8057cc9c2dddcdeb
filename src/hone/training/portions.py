"""Portions: how many examples go at once where memory runs out: micro-batches are halved and a step's gradients formed anew.

Does not know what is computed of a batch. A process that ran out never leaves the others in a sum over all: it goes through its
own share again by itself, and a sum that it could not leave is begun only for sizes that have fitted before.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from hone import log
from hone.config.run import Run
from hone.data.batch import Batch
from hone.errors import TrainingError
from hone.training.checkpoints.checkpoint import write_whole
from hone.training.device import Device
from hone.training.feed import MicroBatch
from hone.training.planning.choose import divisors, sequences_of_a_step, with_batch

T = TypeVar("T")
Size = tuple[int, int]
"""Of a batch: the tokens that are computed, padding too, and those of its longest sequence."""

_TOLD = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""How it is said where it is a plain RuntimeError: by MPS and other accelerators, by the CPU's allocator, by cuBLAS."""


def ran_out(problem: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(problem, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(problem, RuntimeError) and any(words in str(problem) for words in _TOLD)


def size_of(batch: Batch) -> Size:
    """What tells how much memory a batch takes."""
    return batch.ids_BT.numel(), int(batch.known.positions_BT.max()) + 1


class Portions:
    """Each process has one. most: examples at once, 0 for as many as come.

    name_rows: data-set indices to words. splits: whether a loss is the same in parts of its micro-batch. note: told how many
    times smaller than planned they are by now, so that a run that is continued begins so.
    """

    def __init__(self, device: Device, name_rows: Callable[[list[int]], str], *, splits: bool, note: Callable[[int], None]):
        self._device, self._name_rows, self._splits, self._note = device, name_rows, splits, note
        self.most, self._smaller = 0, 1
        self._agreed, self._failure = 0, ""
        self._fitted: set[Size] = set()
        self._at: MicroBatch | None = None
        self._committed = False

    def doubts(self, batches: list[MicroBatch]) -> bool:
        """Whether this process asks all to agree in this step: a size has not fitted yet, or it has come to smaller portions.

        The processes add up their gradients only after each has formed its own, then.
        """
        if self._device.world == 1 or not self._device.forwards_alone:
            return False
        return self.most != self._agreed or not all(self._known(size_of(one.batch)) for one in self.cut(batches))

    def _known(self, size: Size) -> bool:
        return any(size[0] <= tokens and size[1] <= longest for tokens, longest in self._fitted)

    def forget(self) -> None:
        """What fitted may no longer: something else takes memory now."""
        self._fitted.clear()

    def cut(self, batches: list[MicroBatch]) -> list[MicroBatch]:
        """In parts of at most `most` examples; what is known of a micro-batch beforehand stays with its first part."""
        parts = []
        for micro in batches:
            if not self.most or len(micro.batch.parts) <= self.most:
                parts.append(micro)
                continue
            first, second = micro.batch.halves()
            parts += self.cut([replace(micro, batch=first), replace(micro, batch=second, metrics={})])
        return parts

    def each(self, parts: list[MicroBatch]) -> Iterator[MicroBatch]:
        """The parts one by one: the one that is at work is what has run out."""
        for self._at in parts:
            yield self._at

    def commit(self) -> None:
        """What follows is a sum over all processes, which none may leave."""
        self._committed = self._device.world > 1

    def fitted(
        self, batches: list[MicroBatch], go: Callable[[list[MicroBatch]], T], undo: Callable[[], None], *, apart: bool
    ) -> T | None:
        """What `go` makes of the parts, in as small ones as it takes; `undo` takes back what an attempt left.

        None where an example does not fit by itself and all processes are apart, whom `agree` tells then; else TrainingError.
        """
        self._committed = False
        while True:
            parts, why = self.cut(batches), ""
            try:
                found = go(parts)
            except Exception as problem:
                if not ran_out(problem):
                    raise
                why = str(problem).strip().split("\n")[0][:300]
            if not why:
                self._remember(parts)
                return found
            undo()  # outside the except: an error holds the frames, and they the tensors, of what was attempted
            self._device.free_memory()
            self._halve(why)
            if self._failure and not apart:
                raise TrainingError(self._failure)
            if self._failure:
                return None

    def _remember(self, parts: list[MicroBatch]) -> None:
        for size in {size_of(one.batch) for one in parts}:
            if not self._known(size):
                self._fitted = {one for one in self._fitted if one[0] > size[0] or one[1] > size[1]} | {size}

    def _halve(self, why: str) -> None:
        assert self._at is not None, "memory ran out before a batch was at work"
        batch = self._at.batch
        number, (tokens, longest) = len(batch.parts), size_of(batch)
        of_which = f"{number} examples of {tokens:,} tokens" if number > 1 else f"one example of {tokens:,} tokens"
        said = f"out of memory with {of_which} at once ({why})"
        if number == 1 or not self._splits:
            rows = self._name_rows(list(batch.rows))
            what = "it does not fit by itself" if number == 1 else "this loss compares the rows of a micro-batch: it is not split"
            self._failure = f"{said}: {what}. Its rows: {rows}, the longest of {longest:,} tokens. {_LESS}"
            return
        self.most = (number + 1) // 2
        self._smaller *= 2
        self._note(self._smaller)
        if self._committed or (self._device.world > 1 and not self._device.forwards_alone):
            raise TrainingError(
                f"{said}, while the other processes wait for this one in a sum over all. The same command goes on with "
                f"{self.most} at once (processes that `hone train` started are started again by itself); the result is the same"
            )
        log.failure(f"{said}: {self.most} at once from now on; a step learns from the same and its loss is the same")

    def agree(self) -> None:
        """All processes go on in portions of the smallest of all; TrainingError, on all, where one cannot."""
        told = self._device.gather((self.most, self._failure))
        if failures := [failure for _, failure in told if failure]:
            raise TrainingError(failures[0])
        wanted = [most for most, _ in told if most]
        self.most = self._agreed = min(wanted, default=0)


_LESS = (
    "Lower cutoff_len, write gradient_checkpointing: true, quantization_bit: 4 or finetuning_type: lora where they are not "
    "written, or take a device with more memory"
)


NOTE = "smaller_batch.json"
"""In output_dir: how many times smaller than planned micro-batches had to be."""


def read_note(folder: Path) -> int:
    """How many times smaller than planned the micro-batches of the run before had to be; 1 where nothing is noted."""
    path = folder / NOTE
    if not path.is_file():
        return 1
    with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
        return max(1, int(json.loads(path.read_text(encoding="utf-8"))["times_smaller"]))
    return 1


def write_note(folder: Path, before: int, now: int) -> None:
    """Note that they had to be `now` times smaller than planned with what was noted `before`."""
    with contextlib.suppress(OSError):  # a full disk: the run that is continued finds out again
        write_whole(folder / NOTE, json.dumps({"times_smaller": before * now}) + "\n")


def divided(run: Run, times: int) -> Run:
    """The run in micro-batches that are at least so many times smaller; a step learns from the same."""
    per_step, micro = sequences_of_a_step(run), run.train.per_device_train_batch_size
    assert micro != "auto", "a run whose batches are chosen"
    if times == 1 or micro == 1:
        return run
    fewer = next(number for number in divisors(per_step) if number <= max(1, micro // times))
    log.info(f"note: {micro} at once did not fit before: {fewer} at once (remove {NOTE} from output_dir to try again)")
    return with_batch(run, fewer, per_step // fewer)
