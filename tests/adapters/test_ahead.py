"""Weights in 4 bits that are turned back ahead: who is begun when, with a stand-in for CUDA, and the same numbers as without."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hone.adapters import ahead as ahead_file
from hone.adapters.ahead import Ahead, trial, turn_back_ahead
from hone.adapters.four_bits import FourBits

CPU = torch.device("cpu")


class Weights:
    """What is asked of FourBits, written down by name."""

    def __init__(self, name: str, told: list[str]):
        self.name, self.told = name, told

    def turned_back(self, dtype: torch.dtype) -> Tensor:
        self.told.append(self.name)
        return torch.full((2,), float(ord(self.name)), dtype=dtype)


def stand_in(told: list[str]) -> Any:
    beside = SimpleNamespace(record_event=lambda: "event")
    computing = SimpleNamespace(wait_event=lambda event: told.append("wait"))
    streams = {
        "Stream": lambda device: beside,
        "current_stream": lambda device: computing,
        "stream": lambda stream: nullcontext(),
    }
    return SimpleNamespace(**streams)


def taken(ahead: Ahead, weights: dict[str, Weights], order: str, told: list[str]) -> list[str]:
    """What was told while the weights of `order` were taken; each must be its own numbers."""
    told.clear()
    for name in order:
        assert ahead.take(weights[name], torch.float32).tolist() == [float(ord(name))] * 2
    return list(told)


def test_the_second_time_each_is_begun_while_the_one_before_is_computed(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: told.append("keep"))
    ahead, weights = Ahead(CPU, stand_in(told)), {name: Weights(name, told) for name in "abc"}
    assert taken(ahead, weights, "abccba", told) == list("abccba"), "nobody is known yet"
    again = taken(ahead, weights, "abccba", told)
    assert again.count("wait") == again.count("keep") == 4, "the first two of a step have nobody before them that is known"
    assert "".join(one for one in again if len(one) == 1) == "abccbaa", "each once, and the next step's first"
    third = taken(ahead, weights, "abccba", told)
    assert third.count("wait") == 6 and third[:2] == ["wait", "keep"], "from then on all of them"


def test_a_guess_that_was_wrong_is_thrown_away(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    ahead, weights = Ahead(CPU, stand_in(told)), {name: Weights(name, told) for name in "abcd"}
    taken(ahead, weights, "abcabc", told)
    assert "".join(taken(ahead, weights, "abd", told)).replace("wait", "").endswith("cd"), "c was begun in vain"
    assert ahead.take(weights["a"], torch.bfloat16).dtype == torch.bfloat16


@pytest.fixture
def layer() -> Any:
    modules = pytest.importorskip("bitsandbytes.nn")
    torch.manual_seed(0)
    made = modules.Linear4bit(64, 96, compute_dtype=torch.float32, quant_type="nf4")
    return made.to(CPU).requires_grad_(False)


def test_it_gives_the_numbers_of_bitsandbytes_itself(layer, monkeypatch):
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    functional = pytest.importorskip("bitsandbytes.functional")
    ahead = Ahead(CPU, stand_in([]))
    wanted = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    weights = FourBits(layer, ahead)
    assert all(torch.equal(weights.restored(torch.float32), wanted) for _ in range(4))
    assert weights.restores(torch.float32) and not weights.restores(torch.bfloat16)
    assert trial(layer, ahead) == ""


def test_the_trial_finds_other_numbers_and_nothing_is_put_in_place(layer, monkeypatch, capsys):
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(FourBits, "turned_back", lambda weights, dtype: torch.zeros(96, 64, dtype=dtype))
    assert trial(layer, Ahead(CPU, stand_in([]))).startswith("differs by")
    monkeypatch.setattr(ahead_file, "trial", lambda *_: "differs")
    turn_back_ahead(torch.nn.Sequential(layer), stand_in([]))
    assert "four_bits" not in vars(layer) and not capsys.readouterr().err, "on a CPU there is no stream beside"
