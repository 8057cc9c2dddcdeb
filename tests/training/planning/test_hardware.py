"""A run planned for hardware that is not here, and what is proposed where it does not fit."""

from __future__ import annotations

import json
import re

import pytest
import torch

from hone.config import load
from hone.errors import RunError
from hone.training.planning.hardware import _sheets, count_named, hardware_of
from hone.training.planning.lighter import ways
from tests.commands.test_check import check

CPU = torch.device("cpu")


def plan_for(named: str, settings, tmp_path, capsys) -> dict:
    assert check(settings, tmp_path, "--for", named, "--json") == 0
    return json.loads(capsys.readouterr().out)["plan"]


def test_a_gpu_s_facts_are_its_data_sheet_s():
    card = hardware_of(CPU, "H100")
    assert (card.device.type, card.machine.bf16, card.machine.capability) == ("cuda", "products", (9, 0))
    assert 78 * 2**30 < card.free < 79.2 * 2**30
    half, single = card.speed(torch.bfloat16), card.speed(torch.float32)
    assert half.flops / single.flops == pytest.approx(989 / 67) and half.bytes == 0.8 * 3350e9
    assert hardware_of(CPU).device == CPU and hardware_of(CPU, "v100-16gb").machine.bf16 == "none"
    assert all({"name", "gib", "half", "single", "gb", "sm"} == set(row) for row in _sheets().values())
    assert [count_named(words) for words in ("8xh100", "8 x H100", "rtx 4090")] == [(8, "h100"), (8, "H100"), (1, "rtx 4090")]
    assert hardware_of(CPU, "4090").machine == hardware_of(CPU, "rtx 4090").machine
    for nothing in ("8x", "0xh100"):
        with pytest.raises(RunError, match="a number above 0"):
            count_named(nothing)
    with pytest.raises(RunError, match=r"--for h10: no GPU of that name is known .did you mean .h100."):
        hardware_of(CPU, "h10")


def test_check_plans_for_a_gpu_that_is_not_here(tiny_run, tmp_path, capsys):
    """Weights, adapter and data are the run's own; memory is the card's alone, and twice the bandwidth takes half the time."""
    settings = {key: value for key, value in tiny_run.items() if key != "use_cpu"}
    here = plan_for("h100", settings, tmp_path, capsys)
    assert (here["device"], here["named"], here["world"]) == ("cuda", "h100", 1) and here["fits"] and here["from_layers"]
    assert here["memory"]["libraries"] == 0 and here["memory"]["weights"] > 4 * (here["num_weights"] - here["num_trained"]) - 1
    many = plan_for("8 x a100-40gb", settings | {"bf16": "auto"}, tmp_path, capsys)
    assert (many["world"], many["spread"], many["precision"]) == (8, "DDP", "bf16") and "A100" in many["machine"]
    old = plan_for("v100-16gb", settings | {"bf16": "auto"}, tmp_path, capsys)
    assert old["precision"] == "no" and old["fallbacks"][0].startswith("attention: torch's own, each sequence")
    assert check(settings, tmp_path, "--for", "t4") == 0
    shown = capsys.readouterr().out
    assert re.search(r"1 x cuda, computing in float32: Tesla T4 \(sm75\)\n +not this machine's: by its maker's", shown)
    assert "there to be filled: 14" in shown.replace(",", "")


def test_what_a_gpu_cannot_do_is_refused_though_it_is_not_here(tiny_run, tmp_path, capsys):
    settings = {key: value for key, value in tiny_run.items() if key != "use_cpu"}
    assert check(settings | {"bf16": True}, tmp_path, "--for", "v100-32gb") == 2
    assert check(settings | {"use_cpu": True}, tmp_path, "--for", "h100") == 2
    assert check(settings, tmp_path, "--for") == 2
    told = capsys.readouterr().err
    assert "Tesla V100-SXM2-32GB (sm70) has no products of bfloat16" in told
    assert "use_cpu: true: a plan for NVIDIA H100" in told and "--for: write the name of a GPU behind it" in told


def test_lighter_ways_go_from_the_nearest_to_the_lightest():
    def words(**settings: object) -> list[str]:
        asked = {"model_name_or_path": "m", "dataset": "d", "output_dir": "o", **settings}
        run = load([f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in asked.items()], "train")
        return [told for told, _ in ways(run, hardware_of(CPU, settings.get("on", "h100")).machine)]

    few = "quantization_bit: 4, double_quantization: true"
    assert words(finetuning_type="full", bf16=True) == [
        *("pure_bf16: true, optim: adamw_bf16", "finetuning_type: lora", f"finetuning_type: lora, {few}")
    ]
    assert words(finetuning_type="lora") == ["bf16: true", f"bf16: true, {few}"]
    assert words(finetuning_type="lora", bf16=True, quantization_bit=4) == []


def told_on_a_card_for(lighter: dict, named: str, tiny_run, tmp_path, capsys, monkeypatch) -> str:
    """What is said of a full run on cards that hold no more than it takes with `lighter`."""
    full = {key: value for key, value in tiny_run.items() if key not in ("lora_target", "use_cpu")} | {"finetuning_type": "full"}
    full |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "cutoff_len": 32}
    needs = plan_for(named, full | lighter, tmp_path, capsys)["memory"]
    room = sum(size for part, size in needs.items() if part != "host")
    monkeypatch.setitem(_sheets()["h100"], "gib", (1.3 * room + 6 * 2**29 // 5) / 2**30)
    assert check(full, tmp_path, "--for", named) == 0
    return capsys.readouterr().out


def test_what_learns_otherwise_is_proposed_where_nothing_else_fits(tiny_run, tmp_path, capsys, monkeypatch):
    """A full run whose states do not fit: LoRA does, and is told with what it would take; it is never taken."""
    shown = told_on_a_card_for({"finetuning_type": "lora"}, "h100", tiny_run, tmp_path, capsys, monkeypatch)
    assert "what fits: finetuning_type: lora" in shown and "which learns otherwise" in shown
    assert shown.endswith("no fault found, but that the plan does not fit\n")
    assert "100.00%) trained" in shown, "what was asked for is what is planned"


def test_several_that_hold_all_are_told_to_share(tiny_run, tmp_path, capsys, monkeypatch):
    """Shares learn the same, so they are proposed before any lighter way; what shares already is told of lighter ways alone."""
    shown = told_on_a_card_for({"fsdp": "full_shard auto_wrap"}, "8xh100", tiny_run, tmp_path, capsys, monkeypatch)
    assert "what fits: fsdp: full_shard auto_wrap, per_device_train_batch_size: 1" in shown
    assert "learns otherwise" not in shown
