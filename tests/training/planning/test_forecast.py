"""What a plan says of memory is what tensors take, as torch's CPU allocator counts them, and what it chooses fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from hone.config import load
from hone.errors import TrainingError
from hone.models import checkpointing
from hone.training.planning import forecast as forecasting
from hone.training.planning.choose import ROOM, divisors, fastest
from hone.training.planning.draft import gather_material
from hone.training.planning.forecast import Forecast
from hone.training.planning.memory import Memory
from hone.training.prepare import prepare
from hone.training.session import Session, carry_out
from tests.families import COMMON, FAMILIES
from tests.pictures import FAMILIES as PICTURES
from tests.pictures import make_model, picture
from tests.runs import WORDS, losses_of, write_run

WIDE = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 5, "head_dim": 32, "vocab_size": 900}
METHODS = {
    "lora": {"finetuning_type": "lora", "lora_target": "all"},
    "full": {"finetuning_type": "full", "lora_target": None},
    "freeze": {"finetuning_type": "freeze", "lora_target": None, "freeze_trainable_layers": 2},
}
KINDS: dict[str, dict[str, Any]] = {
    "kept": {"gradient_checkpointing": False},
    "selective": {"gradient_checkpointing": True, "gradient_checkpointing_kind": "selective"},
    "full": {"gradient_checkpointing": True},
}
PARTS = ("weights", "adapters", "gradients", "optimizer", "activations", "logits")


def model_of(family: str, folder: Path, tokenizer: Any, **changes: Any) -> str:
    settings = {**COMMON, **FAMILIES[family].settings, **WIDE, "tie_word_embeddings": False, **changes}
    settings.pop("layer_types", None)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def start(tiny_run: dict[str, Any], tmp_path: Path, **changes: Any) -> Session:
    rows = [{"instruction": "Say it", "output": " ".join(WORDS * 4)}] * 16  # every micro-batch is the largest
    (tmp_path / "data" / "rows.json").write_text(json.dumps(rows))
    settings = {**tiny_run, "max_steps": 2, "per_device_train_batch_size": 4, **changes}
    file = write_run({key: value for key, value in settings.items() if value is not None}, tmp_path / "run.yaml")
    session = prepare(load([str(file)], "train"), settings="")
    assert isinstance(session, Session)
    return session


def measured(session: Session) -> int:
    """Bytes at the highest of two steps: weights and buffers, and all that the allocator gave since."""
    module = session.work.policy.module
    before = sum(one.numel() * one.element_size() for one in (*module.parameters(), *module.buffers()))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        carry_out(session)
    events = [one for one in seen.profiler.kineto_results.events() if one.name() == "[memory]"]
    return before + int(np.cumsum([one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())]).max())


def foreseen(memory: Memory) -> int:
    return sum(getattr(memory, part) for part in PARTS)


@pytest.mark.parametrize(
    ("family", "method", "kind", "settings"),
    [
        ("llama", "lora", "kept", {}),
        ("qwen3", "full", "selective", {"bf16": True}),
        ("gemma2", "freeze", "full", {"gradient_accumulation_steps": 1}),
        ("mixtral", "lora", "selective", {"bf16": True, "optim": "adafactor"}),
        ("mixtral", "full", "kept", {"optim": "sgd"}),
    ],
)
def test_the_plan_foresees_what_is_measured(family, method, kind, settings, tiny_run, tiny_tokenizer, tmp_path):
    """5 percent: small tensors that kernels take within themselves are not foreseen, and here nothing is large beside them."""
    model = model_of(family, tmp_path / "model", tiny_tokenizer)
    session = start(tiny_run, tmp_path, model_name_or_path=model, **METHODS[method], **KINDS[kind], **settings)
    assert session.plan.from_layers and session.plan.activations == kind
    assert foreseen(session.plan.memory) == pytest.approx(measured(session), rel=0.05)


def test_the_plan_foresees_pictures_and_the_tower_that_looks_at_them(tiny_run, tmp_path):
    """A Qwen2.5-VL, its tower learning too. 5 percent: as above."""
    template, settings, processor = PICTURES["qwen2_5_vl"]
    text, vision = ({**settings[part], "initializer_range": 0.02} for part in ("text_config", "vision_config"))
    vision |= {"hidden_size": 64, "intermediate_size": 256}
    row = template, {"text_config": text, "vision_config": vision, "initializer_range": 0.02}, processor
    make_model(tmp_path / "model", "qwen2_5_vl", row=row)
    (tmp_path / "data" / "1.png").write_bytes(picture(200, 150))
    said = [{"role": "user", "content": "<image>see?"}, {"role": "assistant", "content": " ".join(WORDS)}]
    (tmp_path / "data" / "seen.json").write_text(json.dumps([{"messages": said, "images": ["1.png"]}] * 8))
    columns = {"messages": "messages", "images": "images"}
    entry = {"file_name": "seen.json", "formatting": "openai", "columns": columns}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"seen": entry}))
    changes = {**METHODS["full"], **KINDS["kept"], "freeze_vision_tower": False, "template": template, "dataset": "seen"}
    session = start(tiny_run, tmp_path, model_name_or_path=str(tmp_path / "model"), **changes)
    assert session.plan.from_layers
    assert foreseen(session.plan.memory) == pytest.approx(measured(session), rel=0.05)


def test_of_rated_answers_the_mismatches_have_no_gradient(tiny_run, tmp_path):
    """KTO holds each answer against another row's; what its layers keep is what those of a plain run of the same rows do."""
    plain = start(tiny_run, tmp_path, **KINDS["kept"]).plan.memory
    rated = [{"messages": [{"role": "user", "content": "Say it"}, {"role": "assistant", "content": " ".join(WORDS * 4)}]}] * 16
    rated = [{**row, "label": bool(number % 2)} for number, row in enumerate(rated)]
    (tmp_path / "data" / "rated.json").write_text(json.dumps(rated))
    entry = {"file_name": "rated.json", "formatting": "openai", "columns": {"messages": "messages", "kto_tag": "label"}}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"rated": entry}))
    found = start(tiny_run, tmp_path, stage="kto", dataset="rated", overwrite_output_dir=True, **KINDS["kept"]).plan.memory
    assert found.activations == pytest.approx(plain.activations, rel=0.02)


def test_the_plan_foresees_tiles_of_tokens(tiny_run, tiny_tokenizer, tmp_path, monkeypatch):
    """A micro-batch goes through feed-forward layers and norms in 5 parts; with all of it at once it would hold more."""
    model = model_of("llama", tmp_path / "model", tiny_tokenizer, intermediate_size=1280, num_hidden_layers=3)
    changes = {"model_name_or_path": model, **METHODS["lora"], **KINDS["full"], "bf16": True}
    whole = start(tiny_run, tmp_path, **changes).plan.memory
    forecasting._passes.clear()
    monkeypatch.setattr(checkpointing, "tokens_at_once", lambda module, width: 128)
    session = start(tiny_run, tmp_path, **changes, overwrite_output_dir=True)
    assert foreseen(session.plan.memory) == pytest.approx(measured(session), rel=0.05)
    assert session.plan.memory.activations < 0.9 * whole.activations
    forecasting._passes.clear()


def test_inputs_that_wait_in_the_hosts_memory_are_told_apart(tiny_run, tiny_tokenizer, tmp_path):
    """Five layers' inputs are the host's, in fp32; what is left on the device does not grow with the depth."""
    model = model_of("llama", tmp_path / "model", tiny_tokenizer)
    session = start(tiny_run, tmp_path, model_name_or_path=model, **METHODS["lora"], **KINDS["full"])
    material = gather_material(session.run)
    found = {
        kind: forecasting.forecast(
            session.run, material.objective, material.tokens, kind, device=torch.device("cpu"), world=1
        ).memory
        for kind in ("full", "offloaded")
    }
    tokens = 4 * int(material.tokens.lengths[0])
    assert (found["full"].host, found["offloaded"].host) == (0, 5 * tokens * 128 * 4)
    assert found["full"].activations - found["offloaded"].activations >= 2 * tokens * 128 * 4


def taking(memory: int, seconds: float) -> Forecast:
    """A step that needs so many bytes."""
    return Forecast(Memory(0, memory, 0, 0, 0, 0, 0, 0), seconds, 1, 1, True)


SIZE = {"kept": 100, "selective": 50, "full": 10}
SLOWER = {"kept": 1.0, "selective": 1.1, "full": 1.4}


def step_of(micro: int, kind: str) -> Forecast:
    """Of 8 sequences, at 1 second each and 2 seconds a micro-batch, however many are in it."""
    return taking(SIZE[kind] * micro, SLOWER[kind] * (8 + 2 * 8 / micro))


@pytest.mark.parametrize(
    ("free", "wanted"),
    [
        (8 * 100, (8, "kept")),
        (8 * 50, (8, "selective")),  # 11.0 seconds; kept in fours takes 12.0
        (4 * 50, (4, "selective")),  # 13.2 seconds; kept in twos takes 16.0
        (20, (2, "full")),
        (9, None),
    ],
)
def test_the_fastest_that_fits_is_chosen(free, wanted):
    found = fastest(step_of, divisors(8), ["kept", "selective", "full"], int(free / ROOM) + 1)
    assert (found[:2] if found else None) == wanted


def test_larger_micro_batches_are_left_where_smaller_ones_are_faster():
    """As on a CPU, where a mask of all tokens with all makes long rows dear."""
    found = fastest(lambda micro, kind: taking(micro, 1 + micro * SLOWER[kind]), divisors(12), ["kept", "full"], 10**6)
    assert found is not None and found[:2] == (1, "kept")


def test_auto_changes_the_micro_batch_and_nothing_that_is_learned(tiny_run, tmp_path):
    """gradient_accumulation_steps: 4 with auto is four sequences a step; the losses are those of four single ones."""
    single = start(tiny_run, tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=4, gradient_checkpointing=False)
    assert (single.plan.micro_batch, single.plan.accumulation, single.plan.why) == (1, 4, "as asked for")
    carry_out(single)
    auto = start(
        tiny_run,
        tmp_path,
        per_device_train_batch_size="auto",
        gradient_accumulation_steps=4,
        gradient_checkpointing="auto",
        output_dir=str(tmp_path / "auto"),
    )
    plan = auto.plan
    assert plan.micro_batch * plan.accumulation == 4 == plan.per_step and plan.fits
    assert plan.why.startswith("the fastest that fits") and "per_device_train_batch_size" in plan.why
    carry_out(auto)
    assert losses_of(tmp_path / "auto") == pytest.approx(losses_of(tmp_path / "out"), abs=1e-5)
    assert json.loads((tmp_path / "auto" / "plan.json").read_text())["micro_batch"] == plan.micro_batch


def test_what_does_not_fit_is_said_with_what_would(tiny_run, tmp_path, monkeypatch):
    whole = start(tiny_run, tmp_path, per_device_train_batch_size=4, gradient_checkpointing=False).plan.memory.needed
    monkeypatch.setattr("hone.training.planning.hardware.available_bytes", lambda device: int(whole * 0.99 / ROOM))
    plan = start(tiny_run, tmp_path, per_device_train_batch_size=4, gradient_checkpointing=False, overwrite_output_dir=True).plan
    assert not plan.fits and (plan.micro_batch, plan.activations) == (4, "kept"), "what was asked for is done"
    assert "per_device_train_batch_size" in plan.instead and "gradient_checkpointing" in plan.instead
    assert any(plan.instead in line for line in plan.lines())


def test_auto_is_refused_where_the_micro_batch_is_learned_from(tiny_run, tmp_path):
    with pytest.raises(TrainingError, match="part of what is learned"):
        start(tiny_run, tmp_path, stage="embed", per_device_train_batch_size="auto", lora_target="all")


def test_why_nothing_was_rehearsed_is_a_whole_line(tiny_run, tmp_path, monkeypatch) -> None:
    said: list[str] = []

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"{'a long word ' * 20}ends.\nand more")

    monkeypatch.setattr(forecasting, "_passes", {})
    monkeypatch.setattr(forecasting, "rehearse", fails)
    monkeypatch.setattr(forecasting.log, "once", said.append)
    start(tiny_run, tmp_path)
    notes = [line for line in said if "rehearsed" in line]
    assert notes and all(line.endswith(f"({'a long word ' * 20}ends.)") for line in notes)
