"""The plan's memory beside torch's CPU allocator, of stages and rows with pictures: `python bench/plan_stages.py [word ...]`.

Only cases whose names hold every word given are run; "2/4" runs the second of four shares of them. Knows no formula: each case
is a run of two steps in this process; what tensors hold before the first is added to what torch's profiler sees. Models are
random, of 4 to 8 M weights: a Llama, and the tests' tiny models that take pictures with widths eight times theirs.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from plan_memory import WORDS
from plan_tensors import HEAD, METHODS, TYPES, chosen_of, line_of, make_inputs, measure
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from hone.training.planning import forecast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.pictures import FAMILIES, make_model, picture
from tests.scoring import write_value_head

TIMES, EDGE = 8, 168
WIDTHS = ("hidden_size", "intermediate_size", "head_dim", "out_hidden_size", "embed_dim", "query_pre_attn_scalar")
LAYERS = ("num_hidden_layers", "depth")
PROCESSORS: dict[str, Any] = {
    "qwen2_5_vl": Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28 * 16, "longest_edge": 28 * 28 * 64}),
    "llava": CLIPImageProcessorPil(size={"shortest_edge": EDGE}, crop_size={"height": EDGE, "width": EDGE}),
    "gemma3": Gemma3ImageProcessorPil(size={"height": EDGE, "width": EDGE}),
}
ANSWERS = {"per_device_train_batch_size": 4, "max_new_tokens": 64, "dataset": "tasks"}
STAGES: dict[str, dict[str, Any]] = {
    "dpo": {"stage": "dpo", "dataset": "pairs"},
    "orpo": {"stage": "dpo", "pref_loss": "orpo", "dataset": "pairs"},
    "kto": {"stage": "kto", "dataset": "rated", "per_device_train_batch_size": 4},
    "rm": {"stage": "rm", "dataset": "pairs"},
    "grpo": {"stage": "grpo", "reward_funcs": "rewards.py:short", "num_generations": 4, "beta": 0.1, **ANSWERS},
    "ppo": {"stage": "ppo", "reward_model": "scores", "reward_model_type": "full", "dataloader_drop_last": True, **ANSWERS},
}
TOWERS: dict[str, dict[str, Any]] = {"frozen": {}, "trained": {"freeze_vision_tower": False}}
CASES = [("lora", "bf16"), ("full", "fp32")]


def widened(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a tiny model made wider and deeper."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            value = widened(value)
        elif name == "mrope_section":
            value = [TIMES * one for one in value]
        elif name in WIDTHS:
            value = TIMES * value
        elif name in LAYERS:
            value = 2 * value
        elif name == "image_size":
            value = EDGE
        elif name == "mm_tokens_per_image":
            value = 16
        elif name == "initializer_range":  # so large a number is for narrow models: in bf16 they would be noise
            value = 0.02
        found[name] = value
    return found


def make_stages(folder: Path) -> None:
    """A Llama, a reward model of it, and rows of about 230 tokens, all alike."""
    make_inputs(folder, ["llama"], ["small"])
    shutil.copytree(folder / "llama-small", folder / "scores")
    write_value_head(folder / "scores", 256, 0)
    (folder / "rewards.py").write_text("def short(completions, **columns):\n    return [-len(one) for one in completions]\n")
    text, other = " ".join(WORDS * 10), " ".join(WORDS[::-1] * 10)
    asked = [{"role": "user", "content": "Say"}]
    answers = [{"role": "assistant", "content": one} for one in (text, other)]
    rows = {
        "pairs": [{"messages": asked, "chosen": answers[0], "rejected": answers[1]}] * 12,
        "rated": [{"messages": [*asked, answers[number % 2]], "label": bool(number % 2)} for number in range(12)],
        "tasks": [{"messages": [{"role": "user", "content": text}]}] * 12,
    }
    columns = {
        "pairs": {"columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"}, "ranking": True},
        "rated": {"columns": {"messages": "messages", "kto_tag": "label"}},
        "tasks": {"columns": {"messages": "messages"}},
    }
    write_sets(folder, rows, columns)


def write_sets(folder: Path, rows: dict[str, Any], entries: dict[str, Any]) -> None:
    """Sets of rows in the form of OpenAI's messages."""
    for name, many in rows.items():
        (folder / f"{name}.json").write_text(json.dumps(many))
    catalog = {name: {"file_name": f"{name}.json", "formatting": "openai", **entry} for name, entry in entries.items()}
    (folder / "dataset_info.json").write_text(json.dumps(catalog))


def make_seeing(folder: Path, family: str) -> None:
    """A model that takes pictures, and rows of two pictures and some words each."""
    template, settings, _ = FAMILIES[family]
    make_model(folder / family, family, row=(template, widened({"initializer_range": 0.3, **settings}), PROCESSORS[family]))
    for number in range(2):
        (folder / f"{number}.png").write_bytes(picture(200, 150, seed=number))
    said = [{"role": "user", "content": "<image>see?<image>see?"}, {"role": "assistant", "content": " ".join(WORDS)}]
    rows = {"seen": [{"messages": said, "images": ["0.png", "1.png"]}] * 12}
    write_sets(folder, rows, {"seen": {"columns": {"messages": "messages", "images": "images"}}})


def all_cases() -> dict[str, tuple[Callable[[Path], None], str, dict[str, Any]]]:
    """By name: what makes the files, the model's folder, and settings."""
    cases: dict[str, tuple[Callable[[Path], None], str, dict[str, Any]]] = {}
    for method, dtype in CASES:
        changes = {**METHODS[method], **TYPES[dtype]}
        for name, stage in STAGES.items():
            cases[f"{name} {method} {dtype}"] = make_stages, "llama-small", {**changes, **stage}
        for family, (tower, how) in itertools.product(PROCESSORS, TOWERS.items()):
            if method == "full" or tower == "frozen":  # an adapter of a language model trains no tower
                seen = {**changes, **how, "dataset": "seen", "template": FAMILIES[family][0]}
                cases[f"{family} {method} {dtype} {tower}"] = partial(make_seeing, family=family), family, seen
    return cases


def main(words: list[str]) -> None:
    """One line a case: MiB by the plan and measured."""
    cases = all_cases()
    print(HEAD, flush=True)
    off = []
    for case in chosen_of(cases, words):
        make, model, settings = cases[case]
        with tempfile.TemporaryDirectory() as name:
            os.chdir(name)
            make(Path(name))
            forecast._passes.clear()
            found = measure(Path(name), model, settings, cuda=False)
        off.append(found.ratio)
        print(line_of(case, found), flush=True)
    print(f"{len(off)} cases; {min(off):.3f} to {max(off):.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
