"""AdamW with moments in bfloat16: rounding that is right on average, steps of AdamW, and a run that goes on bit for bit."""

from __future__ import annotations

import io
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from hone.config.optimizer import OptimizerConfig
from hone.optim import adamw_bf16
from hone.optim.adamw_bf16 import rounded
from hone.optim.build import build_optimizer

NUM = 1 << 16


def follow(
    start: Tensor, gradients: list[Tensor], kind: str = "adamw_bf16", **settings: float
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A module of one weight after a step for each gradient."""
    holder = nn.Module()
    holder.weight = nn.Parameter(start.clone())
    optimizer = build_optimizer(holder, OptimizerConfig(kind=kind, **settings))
    for gradient in gradients:
        holder.weight.grad = gradient.to(start.dtype)
        optimizer.step()
    return holder, optimizer


@pytest.mark.parametrize("number", [1.0 + 2**-9, -0.3, 1e-30, 3.0, 0.0, -65504.5])
def test_rounding_is_right_on_average_and_to_a_neighbour(number):
    """A share p of the numbers is rounded up, so the mean is off by a unit times sqrt(p (1 - p) / NUM): five of those at most."""
    numbers = torch.full((NUM,), number)
    random = torch.randint(0, 1 << 16, (NUM,), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    found = rounded(numbers, random)
    values = sorted(set(found.tolist()))
    exact = float(numbers[0])
    assert len(values) <= 2 and values[0] <= exact <= values[-1]
    unit = values[-1] - values[0]
    assert float(found.double().mean()) == pytest.approx(exact, abs=5 * unit * 0.5 / math.sqrt(NUM) + abs(exact) * 1e-12)
    if unit:
        between = (torch.tensor(values).bfloat16().view(torch.int16).int().abs()).tolist()
        assert abs(between[0] - between[1]) == 1, "neighbours in bfloat16"


def test_the_first_step_is_that_of_adamw():
    """The moments are rounded after they were used: fp32 rounding alone, 1e-6 of weights near 1."""
    torch.manual_seed(0)
    start, gradient = torch.randn(40, 9), torch.randn(40, 9)
    settings = {"learning_rate": 0.1, "weight_decay": 0.5}
    mine, _ = follow(start, [gradient], **settings)
    theirs, _ = follow(start, [gradient], "adamw_torch", **settings)
    torch.testing.assert_close(mine.weight, theirs.weight, rtol=1e-6, atol=1e-6)


def test_the_second_moment_follows_a_gradient_by_thousandths():
    """After t equal gradients g it is (1 - beta2^t) g^2; rounded to the nearest it would stop where a step is half a unit."""
    _, optimizer = follow(torch.zeros(NUM), [torch.full((NUM,), 2.0)] * 60)
    (state,) = optimizer.state.values()
    assert state["exp_avg_sq"].dtype == torch.bfloat16
    wanted = (1 - 0.999**60) * 4
    assert float(state["exp_avg_sq"].double().mean()) == pytest.approx(wanted, rel=1e-3)
    assert float(state["exp_avg"].double().mean()) == pytest.approx((1 - 0.9**60) * 2, rel=1e-3)


def test_weights_in_bfloat16_move_by_less_than_they_can_hold():
    """Equal gradients move AdamW by the rate a step: 1 - 50 * 1e-4 on average, where AdamW in bfloat16 stays at 1."""
    start, gradients = torch.ones(NUM, dtype=torch.bfloat16), [torch.ones(NUM)] * 50
    mine, _ = follow(start, gradients, learning_rate=1e-4)
    stuck, _ = follow(start, gradients, "adamw_torch", learning_rate=1e-4)
    assert float(stuck.weight.detach().double().mean()) == 1.0
    # Each step is one of 0 or 2^-8 with mean 1e-4; the variance of 50 of them over NUM weights, and the moments' own noise.
    assert float(mine.weight.detach().double().mean()) == pytest.approx(
        1 - 50e-4, abs=5 * math.sqrt(50 * 1e-4 * 2**-8 / NUM) + 2e-5
    )


def learned(kind: str, dtype: torch.dtype) -> float:
    """The mean loss of the last 20 of 150 steps of a small network."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16)).to(dtype)
    teacher = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
    optimizer = build_optimizer(module, OptimizerConfig(kind=kind, learning_rate=2e-3, weight_decay=0.01))
    losses = []
    for _ in range(150):
        inputs = torch.randn(32, 16)
        with torch.no_grad():
            wanted = teacher(inputs)
        loss = (module(inputs.to(dtype)).float() - wanted).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return sum(losses[-20:]) / 20


def test_a_small_run_learns_as_with_states_in_float32():
    """Within 2 % of the loss: the noise of rounding is far below that of the batches."""
    assert learned("adamw_bf16", torch.float32) == pytest.approx(learned("adamw_torch", torch.float32), rel=0.02)


def test_a_small_run_in_pure_bfloat16_learns_nearly_as_in_float32():
    assert learned("adamw_bf16", torch.bfloat16) < 1.1 * learned("adamw_torch", torch.float32)


@pytest.mark.parametrize("kind", ["adamw_bf16", "adafactor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_that_is_continued_takes_the_same_steps_to_the_bit(kind, dtype):
    torch.manual_seed(0)
    start, gradients = torch.randn(8, 6).to(dtype), [torch.randn(8, 6) for _ in range(6)]
    whole, _ = follow(start, gradients, kind)
    half, before = follow(start, gradients[:3], kind)
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    torch.manual_seed(9)
    resumed, optimizer = follow(half.weight.detach(), [], kind)
    optimizer.load_state_dict(torch.load(file))
    for gradient in gradients[3:]:
        resumed.weight.grad = gradient.to(dtype)
        optimizer.step()
    assert torch.equal(resumed.weight, whole.weight)


def test_a_large_weight_goes_in_pieces_and_two_weights_draw_apart(monkeypatch):
    monkeypatch.setattr(adamw_bf16, "CHUNK", 1000)
    holder = nn.ParameterList([nn.Parameter(torch.ones(50, 100, dtype=torch.bfloat16)) for _ in range(2)])
    optimizer = build_optimizer(holder, OptimizerConfig(kind="adamw_bf16", learning_rate=1e-3))
    for weight in holder:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    moved = [(weight.detach().flatten() != 1).float() for weight in holder]
    pieces = moved[0].split(1000)
    # A thousandth is a quarter of 2^-8, the unit below 1 is half of that: each moves with a chance of about a half or less.
    assert all(0.1 < float(piece.mean()) < 0.9 for piece in pieces)
    assert not torch.equal(*moved) and not any(torch.equal(one, other) for one, other in pairwise(pieces))


def test_a_weight_that_is_spread_over_processes_takes_the_same_step():
    start, gradient = torch.randn(8, 6), torch.randn(8, 6)
    plain, _ = follow(start, [gradient])
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        spread = nn.Module()
        spread.weight = nn.Parameter(distribute_tensor(start.clone(), mesh, [Shard(0)]))
        spread.weight.grad = distribute_tensor(gradient, mesh, [Shard(0)])
        optimizer = build_optimizer(spread, OptimizerConfig(kind="adamw_bf16"))
        optimizer.step()
        (state,) = optimizer.state.values()
        assert isinstance(state["exp_avg"], DTensor) and torch.equal(spread.weight.full_tensor(), plain.weight)
    finally:
        distributed.destroy_process_group()
