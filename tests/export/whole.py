"""Whole exports as the command makes them, and the logits they are judged by. No test stands here."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from hone.chat.codec import build_codec
from hone.config.adapter import Full, Lora
from hone.config.chat import ChatConfig
from hone.config.export import ExportConfig
from hone.config.model import ModelConfig
from hone.export import job
from hone.models.tokenizer import load_tokenizer


def run_export(
    base: Path,
    adapters: list[Path],
    out: Path,
    *,
    dtype: str = "auto",
    chat: ChatConfig | None = None,
    export: dict | None = None,
    texts: tuple[str, ...] = (),
    **model,
):
    """Export base and adapters into `out`. export, model: further settings of these; texts: for calibration."""
    settings = ModelConfig(model_name_or_path=str(base), **model)
    adapter = Lora(adapter_name_or_path=tuple(map(str, adapters))) if adapters else Full()
    tokenizer = load_tokenizer(settings)
    codec = build_codec(chat or ChatConfig(), tokenizer)
    told = {"dtype": dtype, "tokenizer": tokenizer, "codec": codec, "calibration": codec.encode_text(texts) if texts else ()}
    return job.export(settings, adapter, ExportConfig(export_dir=str(out), **(export or {})), **told)


@torch.inference_mode()
def logits(module, ids=(1, 40, 50, 60, 7)) -> torch.Tensor:
    """Of one text, [1, T, V]."""
    return module.eval()(input_ids=torch.tensor([ids])).logits


def tuned_logits(base: Path, adapter: Path) -> torch.Tensor:
    """Of the base with the adapter beside it, by PEFT alone."""
    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter))


def merged_by_peft(base: Path, adapters: list[Path], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """What PEFT's merge_and_unload makes of the whole model, one adapter after the other."""
    module = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    for adapter in adapters:
        module = PeftModel.from_pretrained(module, adapter).merge_and_unload()
    return {name: weight.detach() for name, weight in module.named_parameters()}


def leftovers(folder: Path) -> list[str]:
    """What an export has left or made: hidden names and those that start with out."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith((".", "out")))
