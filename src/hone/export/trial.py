"""The trial of an export: base + adapter and the exported folder are loaded one after the other and compared, texts and weights.

Does not know how the folder was made, nor what becomes of one that fails.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hone import log
from hone.adapters.folder import folders_of, read_folder
from hone.adapters.lora import fold, last_beside
from hone.chat.codec import Codec
from hone.config.adapter import Adapter
from hone.config.model import ModelConfig
from hone.export.means import differing, row_means
from hone.export.parity import Parity, compare, load_plain, logits_of, probe_texts, values_of
from hone.models.load import load_model
from hone.models.policy import find_causal
from hone.models.score_head import ScoreHead
from hone.models.shape import meta_model
from hone.models.value_head import FILE, NAME, add_value_head, find_value_head

_SPARE = 1.2
"""Memory asked for, in sizes of the fp32 weights: one model at a time, its logits and its activations."""


def measure_parity(
    model: ModelConfig,
    adapter: Adapter,
    folder: Path,
    codec: Codec,
    *,
    dtype: str,
    device: torch.device,
    length: int | None,
    head: ScoreHead | None = None,
) -> tuple[Parity | None, str]:
    """The parity of `folder` with base + adapter, both in fp32; or None and why it cannot be measured here.

    dtype: of the exported weights. head: as for load_model; its scores are then what is compared.
    Raises: ExportError where the folder lacks weights or has another vocabulary.
    """
    lack = _lack_of_memory(model, device, head)
    if lack:
        log.warn(f"parity is not measured: {lack}")
        return None, lack
    texts, file = probe_texts(codec), find_value_head(model, folders_of(adapter))
    trained = _of_parts(model, adapter, texts, device, length, file, head)
    gc.collect()
    module = load_plain(folder, device, trust_remote_code=model.trust_remote_code, head=head)
    exported = logits_of(module, texts)
    wrong = differing(trained.means, row_means(module), dtype=dtype)
    found = compare(trained.logits, exported, dtype=dtype, base=trained.without, wrong=wrong)
    if trained.values is None:
        return found, ""
    one_T, other_T = torch.cat(trained.values), torch.cat(_values(module, texts, folder / FILE))
    difference = (one_T - other_T).abs().max().item()
    return replace(found, score_difference=difference, score_spread=one_T.std().item()), ""


@dataclass(frozen=True)
class _Trained:
    """Logits with the last adapter beside the base, those without it (None where there is no adapter), and means of the weights.

    values: of the value head at every token; None where there is none.
    """

    logits: list[Tensor]
    without: list[Tensor] | None
    values: list[Tensor] | None
    means: dict[str, Tensor]


def _of_parts(
    model: ModelConfig,
    adapter: Adapter,
    texts: list[list[int]],
    device: torch.device,
    length: int | None,
    file: Path | None,
    head: ScoreHead | None,
) -> _Trained:
    """The logits come before peft merges the last adapter, which the means need: they would tell if that merge were wrong."""
    module = load_model(model, dtype=torch.float32, device=device, for_training=False, length=length, head=head)
    without = None
    if folders := folders_of(adapter):
        module = last_beside(module, list(map(read_folder, folders)), base_name=model.model_name_or_path).eval()
        with module.disable_adapter():
            without = logits_of(module, texts)
    logits, values = logits_of(module, texts), None if file is None else _values(module, texts, file)
    return _Trained(logits, without, values, row_means(module if without is None else fold(module)))


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


def available_bytes(device: torch.device) -> int | None:
    """Free memory of the device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    said = Path("/proc/meminfo")
    if device.type != "cpu" or not said.is_file():
        return None
    line = next(line for line in said.read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024
