"""The model card, README.md: what the hubs read of a model, and in words what a run's folder says it was trained on and how.

Does not know exporting; reads run.yaml, plan.json and the results that a run leaves, of LLaMA-Factory's or hone's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import PretrainedConfig

import hone
from hone.models.media.families import family_of

_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""owner/name, of a hub."""
_RESULTS = ("train_loss", "eval_loss", "eval_accuracy", "num_input_tokens_seen")
_KINDS = {"pretrain": "pretraining", "sft": "supervised fine-tuning", "reward": "reward modelling"}

_LOADED = {
    "text-classification": ("AutoModelForSequenceClassification", "", ""),
    "image-text-to-text": ("AutoModelForMultimodalLM", "AutoImageProcessor", ', backend="pil"'),
    "audio-text-to-text": ("AutoModelForMultimodalLM", "AutoFeatureExtractor", ""),
}
"""transformers' class of the model, and of what reads its pictures or sounds with which arguments, by the hub's task."""


@dataclass(frozen=True)
class Trained:
    """What a run's folder tells. tags: for the hub; datasets: names; lines: for people."""

    tags: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def read_run(folder: Path) -> Trained:
    """Of a run's folder, or a checkpoint's in it; empty where neither holds a run.yaml."""
    place = folder.parent if folder.name.startswith("checkpoint-") else folder
    run = yaml.safe_load(text) if (text := _text(place / "run.yaml")) else {}
    if not {"objective", "adapter", "optimizer"} <= run.keys():
        return Trained()
    plan, results = _json(place / "plan.json"), _json(place / "all_results.json")
    kind, method = run["objective"]["kind"], run["adapter"]["kind"]
    names = tuple(run["data"]["dataset"])
    sizes = f", {plan['num_rows']:,} rows" if "num_rows" in plan else ""
    rank = _rank(run["adapter"], _json(folder / "adapter_config.json")) if method == "lora" else ""
    lines = [
        f"trained by {_KINDS.get(kind, kind)}, {method}{rank}",
        f"data: {', '.join(names) or 'none named'}{sizes}; template: {run['chat']['template'] or 'the tokenizer own'}",
        *([_pace(run, plan)] if plan else []),
        *(f"{name}: {results[name]:.6g}" for name in _RESULTS if name in results),
        *([f"by {', '.join(f'{name} {one}' for name, one in plan['versions'].items())}"] if "versions" in plan else []),
    ]
    return Trained((kind, method), names, tuple(lines))


def _rank(adapter: dict[str, Any], written: dict[str, Any]) -> str:
    """As the adapter's own file says, which one that was trained further brings; the file PiSSA converts is twice as wide."""
    if "r" in written and not adapter.get("pissa_init"):
        return f", rank {written['r']}, alpha {written['lora_alpha']}"
    return f", rank {adapter['lora_rank']}, alpha {adapter['lora_alpha'] or 2 * adapter['lora_rank']}"


def _pace(run: dict[str, Any], plan: dict[str, Any]) -> str:
    optimizer = run["optimizer"]
    warmed = f", warm-up {optimizer['warmup_ratio']:g}" if optimizer["warmup_ratio"] else ""
    return (
        f"{plan['num_steps']:,} steps, {plan['num_epochs']:g} epochs, {plan['per_step']} {plan['unit']} a step, "
        f"{optimizer['kind']} at {optimizer['learning_rate']:g} ({optimizer['lr_scheduler_type']}{warmed}), cutoff_len "
        f"{run['data']['cutoff_len']}, seed {plan['seed']}"
    )


def _json(file: Path) -> dict[str, Any]:
    return json.loads(_text(file) or "{}")


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def license_of(folder: Path) -> str:
    """What the card in `folder` says; "" where there is none."""
    head = re.match(r"---\n(.*?)\n---", _text(folder / "README.md"), re.DOTALL)
    found = re.search(r"^license:\s*([\w.-]+)\s*$", head[1], re.MULTILINE) if head else None
    return found[1] if found else ""


def task_of(config: PretrainedConfig) -> str:
    """The hub's word for what a model that writes is given."""
    family = family_of(config)
    return "text-generation" if family is None else f"{next(iter(family.kinds))}-text-to-text"


def how_to_load(task: str) -> str:
    """Python that loads a model and what reads its input; pictures by Pillow alone, as AutoProcessor may need torchvision."""
    name, reader, more = _LOADED.get(task, ("AutoModelForCausalLM", "", ""))
    place = '.from_pretrained("this folder"'
    names = ", ".join(sorted(filter(None, (name, reader, "AutoTokenizer"))))
    lines = [f"tokenizer = AutoTokenizer{place})", f"model = {name}{place})"]
    lines += [f"processor = {reader}{place}{more})"] if reader else []
    return "```python\nfrom transformers import " + names + "\n\n" + "\n".join(lines) + "\n```\n"


def write_card(
    folder: Path,
    name: str,
    base: str,
    trained: Sequence[Trained],
    *,
    library: str,
    task: str,
    license: str,
    body: str = "",
    use: str = "",
) -> None:
    """README.md of the model `name`. base: what the user calls its base. body: lines that follow the training's; use: how
    to load it.

    The head is checked by the hub: a base that is a local folder, or a data set that is no id, stands in the text alone.
    """
    tags = dict.fromkeys(("hone", *(tag for one in trained for tag in one.tags)))
    datasets = [one for run in trained for one in run.datasets if _ID.fullmatch(one)]
    head: dict[str, Any] = {"base_model": base} if _is_id(base) else {}
    head |= {"library_name": library, "pipeline_tag": task, "tags": list(tags)}
    head |= {"datasets": list(dict.fromkeys(datasets))} if datasets else {}
    head |= {"license": license} if license else {}
    lines = [f"base model: `{base}`", *(line for run in trained for line in run.lines)]
    text = "".join(f"- {line}\n" for line in lines)
    text += f"{body}- written by hone {hone.__version__}\n\n{use}"
    written = f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {name}\n\n{text}"
    (folder / "README.md").write_text(written, encoding="utf-8")


def _is_id(place: str) -> bool:
    return _ID.fullmatch(place) is not None and not Path(place).exists()
