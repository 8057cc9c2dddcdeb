"""oneDNN's caches of prepared products are bounded before the first product, and a user's own numbers stand."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from hone.config.model import ModelConfig
from hone.models.load import load_model
from hone.models.prepared import CAPACITIES, KEPT, bound_prepared
from hone.training.planning.speed import speed_of

CPU = torch.device("cpu")

GROWS = """
import json, os, sys, torch
from hone.models.prepared import bound_prepared
if sys.argv[1] == "bounded":
    bound_prepared(torch.device("cpu"))

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

torch.set_num_threads(1)
weight, sizes = torch.ones(64, 64), []
for length in range(600):
    torch.ops.mkldnn._linear_pointwise(torch.ones(length + 8, 64), weight, None, "none", [], "")
    if length in (199, 599):
        sizes.append(resident())
print(json.dumps(sizes))
"""


@pytest.fixture
def unset(monkeypatch):
    for name in CAPACITIES:
        monkeypatch.setenv(name, "")  # so that the test's own changes are undone
        monkeypatch.delenv(name)


def load(folder, device=CPU):
    model = ModelConfig(model_name_or_path=str(folder))
    return load_model(model, dtype=torch.float32, device=device, for_training=False)


def test_a_model_on_the_cpu_comes_with_bounded_caches(unset, tiny_model_dir):
    load(tiny_model_dir)
    assert [os.environ[name] for name in CAPACITIES] == [str(KEPT)] * 2


def test_what_the_user_has_set_stands(unset, monkeypatch, tiny_model_dir):
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "512")
    load(tiny_model_dir)
    assert os.environ["LRU_CACHE_CAPACITY"] == "512"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == str(KEPT)


def test_the_plans_own_product_comes_after_the_bound(unset, monkeypatch):
    """The capacities are read at the first product of a process: one before would leave them at 1,024 for the whole run."""
    product, seen = torch.mm, []

    def noted(*factors: torch.Tensor) -> torch.Tensor:
        seen.append([os.environ.get(name) for name in CAPACITIES])
        return product(*factors)

    monkeypatch.setattr(torch, "mm", noted)
    speed_of.__wrapped__(CPU, torch.bfloat16)
    assert seen and all(names == [str(KEPT)] * 2 for names in seen)


def test_an_accelerator_needs_none_of_it(unset):
    bound_prepared(torch.device("cuda"))
    assert not set(CAPACITIES) & set(os.environ)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_memory_does_not_grow_with_new_lengths():
    """torch is imported before the caches are bounded, as in every run: the numbers are read at the first product."""

    def growth(how: str) -> int:
        variables = {name: value for name, value in os.environ.items() if name not in CAPACITIES}
        output = subprocess.run([sys.executable, "-c", GROWS, how], env=variables, capture_output=True, text=True, check=True)
        early, late = json.loads(output.stdout)
        return late - early

    assert growth("bounded") < growth("as it comes") / 4
