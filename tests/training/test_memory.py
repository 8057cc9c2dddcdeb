"""The plan's memory: its parts, what each choice moves, and the peak that a small run was seen to reach."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch

from hone.models.shape import Shape
from hone.training.memory import Trained, estimate
from tests.runs import write_run

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SIZES = {"num_layers": 4, "hidden": 64, "attention": 64, "cached": 32, "feed_forward": 128, "vocabulary": 500}
LLAMA = Shape("LlamaForCausalLM", 1000, **SIZES, masked=False)
ADAPTER = Trained(num=100, frozen=1000, inputs=4 * (6 * 64 + 128), head=False)
WHOLE = Trained(num=1000, frozen=0, inputs=4 * (6 * 64 + 128), head=True)
SETTINGS = {"tokens": 10, "weight_bytes": 2.0, "trained_weight_bytes": 4, "compute_bytes": 2, "state_bytes": 8.0}


def held(trained=ADAPTER, *, device=GPU, recompute=False, **changes):
    return estimate(LLAMA, trained, recompute=recompute, device=device, **{**SETTINGS, **changes})


def test_exact_parts_are_counted():
    parts = held()
    assert (parts.weights, parts.gradients, parts.optimizer) == (1000 * 2 + 100 * 4, 100 * 4, 100 * 8)
    assert held(weight_bytes=0.5).weights == 1000 // 2 + 100 * 4
    whole = held(WHOLE)
    assert (whole.weights, whole.gradients, whole.optimizer) == (4000, 4000, 8000)
    assert parts.logits == 10 * 500 * 4 * 2, "fewer logits than a chunk: all of them, and their gradient"
    assert whole.logits - parts.logits == 500 * 64 * 4


def test_a_layer_keeps_what_its_backward_pass_needs():
    norms, attention, feed_forward, inputs = 2 * 64 * 4, 4 * 64 * 2, 3 * 128 * 2, (6 * 64 + 128) * 2
    layer = 10 * (norms + attention + feed_forward + inputs)
    assert held().activations == 4 * layer + 100 * 2, "and autocast's copy of the trained weights"
    assert held(recompute=True).activations == layer + 4 * 10 * 64 * 2 + 100 * 2
    assert held(device=CPU, recompute=True).heap < held(device=CPU).heap
    assert held(tokens=20).activations == 2 * held().activations - 100 * 2
    masked = estimate(replace(LLAMA, masked=True), ADAPTER, recompute=False, device=GPU, **SETTINGS)
    assert masked.activations == held().activations + 4 * 10**2 * 2, "a mask of the row's tokens by all of them"


def test_the_total_is_all_parts_and_what_is_held_already_is_no_need():
    parts = held(device=CPU, reference=7, reward=7, answers=500, answer_tokens=500)
    assert parts.reference == 7 and held(chunks=8).logits == 4 * held(chunks=2).logits
    assert parts.total == sum(asdict(parts).values())
    assert parts.libraries > 100 * 2**20 and parts.needed == parts.total - parts.libraries
    assert parts.heap > 0
    assert (held().libraries, held().heap) == (0, 0), "of an accelerator's memory the process holds nothing yet"
    assert [line.split()[0] for line in parts.lines()] == list(asdict(parts))
    assert "gradients" not in " ".join(replace(parts, gradients=0).lines())


def test_drawing_takes_what_is_beyond_a_step():
    """Keys and values of each answer's tokens in every layer, and three rows of logits an answer."""
    assert held(answers=2, answer_tokens=10).drawing == 0, "less than the step itself, which comes later"
    parts = held(answers=50, answer_tokens=100, reward=5)
    assert parts.drawing + parts.activations + parts.logits == 50 * (100 * 32 * 4 * 2 + 500 * 4 * 3)
    assert parts.reward == 5 and held().drawing == 0


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
