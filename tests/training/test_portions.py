"""Where memory runs out, micro-batches become smaller and nothing else changes: losses and weights are those of the whole.

Tolerance as in test_invariance: fp32 sums in another order; 1e-5 in losses, 2e-5 in weights after 6 steps at learning rate 0.01.
Memory runs out by what allocators raise, in a forward or a backward pass of more tokens than a bound.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hone import log
from hone.chat.encoded import Encoded
from hone.commands import train
from hone.data.batch import pack
from hone.data.order import Steps
from hone.errors import TrainingError
from hone.models.policy import Policy
from hone.training import portions
from hone.training.feed import MicroBatch
from hone.training.portions import Portions
from tests import worlds
from tests.runs import largest_difference, losses_of, weights_of, write_run

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
MPS = RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB, max allowed: 9.1 GB)")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)


class _Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, problem: Exception) -> Tensor:
        ctx.problem = problem
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise ctx.problem


def small_memory(tokens: int, problem: Exception, *, backward: bool) -> list[int]:
    """Batches of more than `tokens` tokens run out from now on, in learning; the sizes that were asked for."""
    real, asked = Policy.token_logprobs, []

    def token_logprobs(self: Policy, batch: Any, **more: Any) -> Tensor:
        found = real(self, batch, **more)
        if not torch.is_grad_enabled() or type(batch.ids_BT) is not Tensor:  # the plan's rehearsal takes tensors without memory
            return found
        asked.append(batch.ids_BT.numel())
        if asked[-1] <= tokens:
            return found
        if backward:
            return _Fails.apply(found, problem)
        raise problem

    Policy.token_logprobs = token_logprobs  # type: ignore[method-assign]
    return asked


@pytest.fixture
def whole_memory():
    """What `small_memory` changed is put back."""
    real = Policy.token_logprobs
    yield
    Policy.token_logprobs = real  # type: ignore[method-assign]


def settings_of(tiny_run: dict[str, Any], folder: Path, **changes: Any) -> Path:
    whole = {**tiny_run, "max_steps": 6, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    return write_run({**whole, "output_dir": str(folder), **changes}, folder.with_suffix(".yaml"))


@pytest.fixture
def baseline(tiny_run, tmp_path) -> Path:
    assert train.main([str(settings_of(tiny_run, tmp_path / "whole"))]) == 0
    return tmp_path / "whole"


@pytest.mark.parametrize(("problem", "backward", "first"), [(CUDA, False, True), (MPS, True, False), (CPU, True, True)])
def test_smaller_portions_change_nothing(problem, backward, first, tiny_run, tmp_path, baseline, capsys, whole_memory):
    folder = tmp_path / "split"
    asked = small_memory(150, problem, backward=backward)
    capsys.readouterr()
    assert train.main([str(settings_of(tiny_run, folder, try_longest_first=first))]) == 0
    said = capsys.readouterr().err
    assert losses_of(folder) == pytest.approx(losses_of(baseline), abs=1e-5)
    assert largest_difference(weights_of(folder), weights_of(baseline)) < 2e-5
    told = [line for line in said.splitlines() if "out of memory" in line]
    assert len(told) == 1 and "4 examples of" in told[0] and "2 at once from now on" in told[0], said
    assert sum(size > 150 for size in asked) == 1, "the smaller portions are kept"
    assert ("tried first: the longest micro-batch, 4 examples" in said) == first
    assert json.loads((folder / portions.NOTE).read_text()) == {"times_smaller": 2}
    assert train.main([str(settings_of(tiny_run, folder, overwrite_output_dir=True, max_steps=2, warmup_steps=0))]) == 0
    assert "note: 4 at once did not fit before: 2 at once" in capsys.readouterr().err


def test_a_sequence_that_does_not_fit_by_itself_is_named_before_the_first_step(tiny_run, tmp_path, whole_memory, capsys):
    small_memory(40, CUDA, backward=False)
    with pytest.raises(TrainingError) as caught:
        train.main([str(settings_of(tiny_run, tmp_path / "out"))])
    said = str(caught.value)
    assert "one example of" in said and "does not fit by itself" in said and "rows row " in said, said
    assert "tokens. Lower cutoff_len" in said
    assert "step 1/6" not in capsys.readouterr().err


def _one_of_two(settings: str) -> int:
    if log.rank() == 1:
        small_memory(80, CUDA, backward=True)
    return train.main([settings])


@pytest.mark.slow
def test_of_two_processes_one_runs_out_and_both_go_on_in_smaller_portions(tiny_run, tmp_path, baseline):
    folder = tmp_path / "two"
    changes = {"per_device_train_batch_size": 2, "try_longest_first": False}
    file = settings_of(tiny_run, folder, **changes)
    said = worlds.fork(2, _one_of_two, str(file), beside=file)
    assert "[rank 1] out of memory with 2 examples" in said, said
    assert losses_of(folder) == pytest.approx(losses_of(baseline), abs=1e-5)
    assert largest_difference(weights_of(folder), weights_of(baseline)) < 2e-5


@pytest.mark.slow
def test_where_all_meet_in_every_forward_pass_the_run_starts_again_in_smaller_portions(tiny_run, tmp_path):
    """The second process of FSDP2 alone runs out in the middle of the run, after a checkpoint."""
    changes = {"per_device_train_batch_size": 2, "finetuning_type": "full", "try_longest_first": False}
    saves = {"save_strategy": "steps", "save_steps": 1}
    one = settings_of(tiny_run, tmp_path / "one", finetuning_type="full")
    assert train.main([str(one)]) == 0
    file = settings_of(tiny_run, tmp_path / "shards", **changes, **saves, fsdp="true")
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nif os.environ.get('RANK') == '1':\n    from tests.training.test_portions import CUDA, small_memory\n"
        "    small_memory(80, CUDA, backward=True)\n"
    )
    root = Path(__file__).parents[2]
    found = worlds.command(file, 2, PYTHONPATH=f"{tmp_path}:{root}:{root / 'src'}")
    assert found.returncode == 0, found.stderr
    assert "started again, with micro-batches 2 times smaller" in found.stderr
    assert "continuing" in found.stderr
    assert losses_of(tmp_path / "shards") == pytest.approx(losses_of(tmp_path / "one"), abs=1e-4)  # the log has 4 digits
    assert largest_difference(weights_of(tmp_path / "shards"), weights_of(tmp_path / "one")) < 2e-5


def micro(*lengths: int) -> MicroBatch:
    sequences = [
        Encoded(np.arange(1, length + 1, dtype=np.int32), np.arange(1, length + 1, dtype=np.int32)) for length in lengths
    ]
    return MicroBatch(pack(sequences, range(len(lengths))), True, {"reward": (1.0, 2.0)})


def two_processes(others: tuple[int, str] = (0, ""), **about: Any) -> Portions:
    """Portions of one process of two; what the other tells when they agree."""
    device = SimpleNamespace(world=2, forwards_alone=True, free_memory=lambda: None, gather=lambda mine: [mine, others])
    return Portions(device, lambda rows: f"rows {rows}", **{"splits": True, "note": lambda times: None, **about})


def fail_above(tokens: int, portions_: Portions, *, committed: bool = False):
    def go(parts: list[MicroBatch]) -> list[int]:
        for part in portions_.each(parts):
            if committed:
                portions_.commit()
            if part.batch.ids_BT.numel() > tokens:
                raise CUDA
        return [len(part.batch.parts) for part in parts]

    return go


def test_parts_keep_what_is_known_of_a_micro_batch_once():
    one = two_processes()
    one.most = 2
    parts = one.cut([micro(3, 4, 5, 6, 7)])
    assert [part.batch.rows for part in parts] == [(0, 1), (2,), (3, 4)]
    assert [dict(part.metrics) for part in parts] == [{"reward": (1.0, 2.0)}, {}, {}]


def test_what_is_under_way_over_all_cannot_be_left_and_is_begun_only_for_sizes_that_fitted():
    noted: list[int] = []
    one = two_processes(note=noted.append)
    assert one.doubts([micro(5, 5)]), "nothing has fitted yet"
    assert one.fitted([micro(5, 5)], fail_above(10, one), lambda: None, apart=True) == [2]
    assert not one.doubts([micro(5, 5)]) and not one.doubts([micro(4, 3)])
    assert one.doubts([micro(6)]), "fewer tokens, but a longer sequence"
    with pytest.raises(TrainingError, match=r"wait for this one in a sum over all\. The same command goes on with 1 at once"):
        one.fitted([micro(5, 5)], fail_above(9, one, committed=True), lambda: None, apart=False)
    assert noted == [2]
    one.forget()
    assert one.doubts([micro(5, 5)])


def test_all_go_on_in_the_smallest_portions_of_any_and_end_where_one_cannot():
    one = two_processes(others=(2, ""))
    assert one.fitted([micro(5, 5, 5, 5)], fail_above(50, one), lambda: None, apart=True) == [4]
    one.agree()
    assert one.most == 2 and not one.doubts([micro(5, 5, 5, 5)])
    other = two_processes(others=(0, "out of memory with one example: row 7"))
    assert other.fitted([micro(5)], fail_above(50, other), lambda: None, apart=True) == [1]
    with pytest.raises(TrainingError, match="row 7"):
        other.agree()


def test_a_loss_that_compares_the_rows_of_a_micro_batch_is_not_split():
    one = two_processes(splits=False)
    with pytest.raises(TrainingError, match=r"compares the rows of a micro-batch: it is not split\. Its rows: rows \[0, 1\]"):
        one.fitted([micro(5, 5)], fail_above(9, one), lambda: None, apart=False)


def test_other_errors_are_no_lack_of_memory():
    one = two_processes()

    def go(_: list[MicroBatch]) -> None:
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        one.fitted([micro(5, 5)], go, lambda: None, apart=True)


@pytest.mark.parametrize("capacity", [None, 64])
def test_the_heaviest_micro_batch_is_that_of_every_step_looked_through(capacity):
    lengths = np.random.default_rng(0).integers(1, 60, 203)
    steps = Steps(lengths, per_step=8, micro=2, world=2, seed=3, packing_capacity=capacity)
    for epoch, first in ((0, 0), (1, 5)):
        every = [rows for index in range(first, steps.num_steps_per_epoch) for rank in steps.step(epoch, index) for rows in rank]
        assert lengths[steps.heaviest(epoch, first)].sum() == max(lengths[rows].sum() for rows in every)
