"""The parts of the plan's memory that need no pass, what is added to one, and the peak that a small run was seen to reach."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from torch import nn

from hone.training.planning import memory
from hone.training.planning.memory import Weights, add_up, frozen_bytes, state_bytes
from hone.training.planning.sharding import ALONE
from tests.runs import write_run

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ADAPTER = Weights(num=1100, num_trained=100, frozen=2000, trained=400, largest=100, states=800, beside=True)
WHOLE = Weights(num=1000, num_trained=1000, frozen=0, trained=4000, largest=1000, states=8000, beside=False)
PASS = {"activations": 5000, "logits": 700, "gradients": 300, "host": 0}


def held(weights=ADAPTER, found=PASS, *, device=GPU, **changes):
    settings = {
        "formed": 50_000,
        "optimizer": "adamw_torch",
        "recomputes": False,
        "sharding": ALONE,
        "half": False,
    }
    return add_up(weights, found, device=device, **{**settings, **changes})


def test_parts_of_a_pass_stand_beside_what_is_held_all_along():
    parts = held()
    assert (parts.weights, parts.adapters, parts.optimizer) == (2000, 400, 800)
    assert (parts.activations, parts.logits, parts.gradients) == (5000, 700, 300)
    assert (held(WHOLE).weights, held(WHOLE).adapters) == (4000, 0)
    assert held(found={**PASS, "landed": 400}).gradients == 300 + 400, "of the micro-batches before"
    assert held(found={**PASS, "gathered": 900}).weights == 2000 + 900, "of other processes' shares"


def test_the_optimizers_step_is_the_most_where_a_pass_is_short():
    short = {"activations": 50, "logits": 7, "gradients": 3, "host": 0}
    parts = held(WHOLE, short)
    assert (parts.activations, parts.logits, parts.gradients, parts.optimizer) == (0, 0, 4000, 8000 + 4000)
    assert held(WHOLE, short, device=CPU).optimizer == 8000 + 2 * 1000, "one weight at a time"
    assert held(WHOLE, short, optimizer="adamw_torch_fused").optimizer == 8000


def test_the_total_is_all_parts_and_what_is_held_already_is_no_need():
    parts = held(device=CPU)
    assert parts.total == sum(asdict(parts).values())
    assert parts.libraries > 100 * 2**20 and parts.needed == parts.total - parts.libraries
    assert held(device=CPU, recomputes=True).fragmentation < parts.fragmentation
    assert parts.fragmentation > 0 and held().libraries == 0, "of an accelerator's memory the process holds nothing yet"
    assert [line.split()[0] for line in parts.lines()] == [name for name, size in asdict(parts).items() if size]


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("adamw_torch", 2 * 4 * (64 * 128 + 100)),
        ("sgd", 0),
        ("adafactor", 4 * (64 + 128 + 100)),
        ("adamw_bf16", 2 * 2 * (64 * 128 + 100)),
        ("adamw_8bit", 2 * (64 * 128 + 4 * 32) + 2 * 4 * 100),
        ("paged_lion_8bit", 64 * 128 + 4 * 32 + 4 * 100),
    ],
)
def test_states_of_optimizers_are_counted(kind, wanted):
    """Of a matrix of 8,192 numbers, 32 blocks in 8 bits, and a vector of 100, which stays in fp32."""
    assert state_bytes(kind, [torch.empty(64, 128), torch.empty(100)]) == wanted


@pytest.mark.parametrize("kind", ["adamw_torch", "adamw_bf16", "adafactor", "rmsprop"])
def test_states_are_those_that_the_optimizer_makes(kind):
    from hone.config.optimizer import OptimizerConfig
    from hone.optim.build import build_optimizer

    module = nn.Linear(24, 40)
    optimizer = build_optimizer(module, OptimizerConfig(kind=kind))
    module(torch.ones(24)).sum().backward()
    optimizer.step()
    states = [one for state in optimizer.state.values() for one in state.values() if torch.is_tensor(one) and one.dim()]
    assert state_bytes(kind, module.parameters()) == sum(one.numel() * one.element_size() for one in states)


def test_weights_in_four_bits_have_a_scale_for_each_64():
    module = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Embedding(2, 64))
    module.get_output_embeddings = lambda: None
    wanted = (4096 / 2 + 64 * (1 + 4 / 256) + 128 * 2) / (4096 + 128)
    assert frozen_bytes(module, 2, 4) == pytest.approx(wanted)
    assert frozen_bytes(module, 2, 4, double=False) == pytest.approx((4096 / 2 + 64 * 4 + 128 * 2) / 4224)
    assert frozen_bytes(module, 2, 8) == pytest.approx((4096 + 64 * 4 + 128 * 2) / 4224) and frozen_bytes(module, 2, 0) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_the_plan_of_a_small_run_is_near_its_peak(tiny_run, tmp_path):
    """Of a tiny model the libraries are nearly all; that they are counted, once, is what is seen here."""
    path = write_run({**tiny_run, "max_steps": 2}, tmp_path / "run.yaml")
    # The peak of the new process alone: getrusage begins with that of the process it was forked from.
    code = "import sys; from hone.cli import main; main(sys.argv[1:]); print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code, "train", str(path)], capture_output=True, text=True, check=True)
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout).group(1)) * 1024
    parts = json.loads((tmp_path / "out" / "plan.json").read_text())["memory"]
    assert 0.8 < peak / sum(parts.values()) < 1.25


def test_free_memory_is_what_a_container_is_given_of_the_machines(monkeypatch):
    monkeypatch.setattr("hone.kernels.spare.available_bytes", lambda device: 123)
    assert memory.available_bytes(torch.device("cpu")) == 123
    monkeypatch.setattr("hone.kernels.spare.available_bytes", lambda device: None)
    assert memory.available_bytes(torch.device("cpu")) > 123, "a system that does not say has its pages counted"
