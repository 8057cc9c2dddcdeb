"""The trial of an export: the trained model and the exported one are loaded one after the other and compared, texts and weights.

Does not know how the export was made, nor what becomes of one that fails.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from hone import log
from hone.adapters.folder import folders_of, read_folder
from hone.adapters.lora import fold, last_beside
from hone.chat.codec import Codec
from hone.chat.encoded import Encoded
from hone.config.adapter import Adapter
from hone.config.export import FEW_BITS
from hone.config.model import ModelConfig
from hone.export.means import differing, row_means
from hone.export.parity import (
    Parity,
    compare,
    load_plain,
    logits_of,
    logits_of_row,
    loss_of,
    probe_prompts,
    probe_texts,
    values_of,
)
from hone.export.quantized.mlx import MlxModel, lack_of_mlx
from hone.kernels.spare import available_bytes
from hone.models.forward import find_causal
from hone.models.llamacpp.library import LlamaCpp
from hone.models.load import load_model
from hone.models.score_head import ScoreHead
from hone.models.shape import meta_model
from hone.models.value_head import FILE, NAME, add_value_head, find_value_head

_SPARE = 1.2
"""Memory asked for, in sizes of the fp32 weights: one model at a time, its logits and its activations."""


@dataclass(frozen=True)
class Texts:
    """What both models read. rows: of data to be evaluated on, whose loss is compared; none where there are none."""

    probes: list[list[int]]
    prompts: dict[str, list[int]]
    rows: tuple[Encoded, ...] = ()


@dataclass(frozen=True)
class _Trained:
    """Logits with the last adapter beside the base, those without it (None where there is no adapter), and means of the weights.

    values: of the value head at every token; None where there is none. loss: of the rows, None without any.
    """

    logits: list[Tensor]
    without: list[Tensor] | None
    values: list[Tensor] | None
    means: dict[str, Tensor]
    loss: float | None


@dataclass(frozen=True)
class _Exported:
    """The same of the other side. misread: prompts of which its tokenizer gives other ids; means: None where it gives none."""

    logits: list[Tensor]
    misread: tuple[str, ...]
    loss: float | None
    values: list[Tensor] | None = None
    means: dict[str, Tensor] | None = None


def measure_parity(
    model: ModelConfig,
    adapter: Adapter,
    exported: Path,
    codec: Codec,
    *,
    dtype: str,
    device: torch.device,
    length: int | None,
    head: ScoreHead | None = None,
    rows: Sequence[Encoded] = (),
) -> tuple[Parity | None, str]:
    """The parity of `exported` with base + adapter, both in fp32; or None and why it cannot be measured here.

    exported: a folder, which transformers runs, and mlx-lm one that is in its form; or a GGUF file, which llama.cpp runs. dtype:
    of the exported weights, a key of parity.TOLERANCES. head: as for load_model; its scores are then what is compared. rows:
    whose loss is compared too.
    Raises: ExportError where the folder lacks weights or has another vocabulary.
    """
    lack = _lack_of_memory(model, device, head) or (lack_of_mlx() if dtype.startswith("mlx") else "")
    if lack:
        log.warn(f"parity is not measured: {lack}")
        return None, lack
    texts = Texts(probe_texts(codec), {} if head else probe_prompts(codec), tuple(row for row in rows if row.num_trained))
    trained = _of_parts(model, adapter, texts, device, length, head)
    gc.collect()
    if exported.suffix == ".gguf":
        other = _of_gguf(exported, texts)
    elif dtype.startswith("mlx"):
        other = _of_mlx(exported, texts)
    else:
        other = _of_folder(exported, texts, device, model, head, valued=trained.values is not None)
        other = replace(other, means=None) if dtype in FEW_BITS else other
    wrong = {} if other.means is None else differing(trained.means, other.means, dtype=dtype)
    found = compare(trained.logits, other.logits, dtype=dtype, base=trained.without, wrong=wrong)
    found = replace(found, misread=other.misread)
    if trained.loss is not None and other.loss is not None:
        found = replace(found, loss=(trained.loss, other.loss))
    if trained.values is None or other.values is None:
        return found, ""
    one_T, other_T = torch.cat(trained.values), torch.cat(other.values)
    difference = (one_T - other_T).abs().max().item()
    return replace(found, score_difference=difference, score_spread=one_T.std().item()), ""


def _of_parts(
    model: ModelConfig, adapter: Adapter, texts: Texts, device: torch.device, length: int | None, head: ScoreHead | None
) -> _Trained:
    """The logits come before peft merges the last adapter, which the means need: they would tell if that merge were wrong."""
    file = find_value_head(model, folders_of(adapter))
    module = load_model(model, dtype=torch.float32, device=device, for_training=False, length=length, head=head)
    without = None
    if folders := folders_of(adapter):
        module = last_beside(module, list(map(read_folder, folders)), base_name=model.model_name_or_path).eval()
        with module.disable_adapter():
            without = logits_of(module, texts.probes)
    logits, values = logits_of(module, texts.probes), None if file is None else _values(module, texts.probes, file)
    loss = _loss(module, texts)
    return _Trained(logits, without, values, row_means(module if without is None else fold(module)), loss)


def _of_folder(
    folder: Path, texts: Texts, device: torch.device, model: ModelConfig, head: ScoreHead | None, *, valued: bool
) -> _Exported:
    module = load_plain(folder, device, trust_remote_code=model.trust_remote_code, head=head)
    logits = logits_of(module, texts.probes)
    misread = _misread(folder, texts, trust_remote_code=model.trust_remote_code)
    values = _values(module, texts.probes, folder / FILE) if valued else None
    return _Exported(logits, misread, _loss(module, texts), values, row_means(module))


def _misread(folder: Path, texts: Texts, *, trust_remote_code: bool) -> tuple[str, ...]:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    read = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts.prompts}
    return tuple(text for text, ids in texts.prompts.items() if read[text] != ids)


def _of_mlx(folder: Path, texts: Texts) -> _Exported:
    """By mlx-lm itself; its tokenizer is transformers'."""
    model = MlxModel(folder)
    logits = [model.logits(ids) for ids in texts.probes]
    losses = [loss_of(model.logits(row.ids.tolist()), row) for row in texts.rows]
    return _Exported(logits, _misread(folder, texts, trust_remote_code=False), _mean(losses))


def _of_gguf(file: Path, texts: Texts) -> _Exported:
    """By llama.cpp itself, its keys and values in fp32 as ours are."""
    with LlamaCpp("parity of a GGUF file") as library:
        model = library.load(file, exact=True)
        misread = tuple(text for text, ids in texts.prompts.items() if model.tokenize(text) != ids)
        logits = [torch.from_numpy(model.logits(ids).copy()) for ids in texts.probes]
        losses = [loss_of(torch.from_numpy(model.logits(row.ids).copy()), row) for row in texts.rows]
    return _Exported(logits, misread, _mean(losses))


def _loss(module: nn.Module, texts: Texts) -> float | None:
    return _mean([loss_of(logits_of_row(module, row), row) for row in texts.rows])


def _mean(losses: list[tuple[float, int]]) -> float | None:
    return sum(loss for loss, _ in losses) / sum(count for _, count in losses) if losses else None


def _values(module: nn.Module, texts: list[list[int]], file: Path) -> list[Tensor]:
    causal = find_causal(module)
    add_value_head(causal, file)
    head = causal._modules.pop(NAME)
    return values_of(module, texts, head)


def _lack_of_memory(model: ModelConfig, device: torch.device, head: ScoreHead | None) -> str:
    needed = _SPARE * 4 * sum(weight.numel() for weight in meta_model(model, head).parameters())
    free = available_bytes(device)
    if free is None or needed <= free:
        return ""
    return f"the model in fp32 needs {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free"
