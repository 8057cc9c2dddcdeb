"""The value head: one number a token from its hidden state, a reward or an expected return, learned beside the model.

Does not know what the numbers mean nor how they are learned.

Axes: B row, T token, D width.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.config.model import ModelConfig
from hone.errors import ModelError
from hone.models.place import find_file, settle

FILE, OLD_FILE = "value_head.safetensors", "value_head.bin"
"""LLaMA-Factory's names of the file; inside, `v_head.summary.weight` [1, D] and `v_head.summary.bias` [1], fp32."""
NAME = "v_head"
_LEARNED = "learned_by"
"""Key of the file's metadata that says what the head was learned for; LLaMA-Factory's files have none."""


class ValueHead(nn.Module):
    """Hidden states [..., D] to values [...], in fp32 whatever the model computes in."""

    def __init__(self, width: int):
        super().__init__()
        self.summary = nn.Linear(width, 1)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """fp32 [B, T]."""
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            weight = self.summary.weight.float()
            return nn.functional.linear(hidden_BTD.float(), weight, self.summary.bias.float()).squeeze(-1)


def add_value_head(causal: PreTrainedModel, file: Path | None = None) -> None:
    """Give `causal` a trainable value head: the one saved in `file`, or a new one whose values are near 0 at first.

    Call it on all processes with the same seed. Raises ModelError where the file is of a model of another width.
    """
    width = causal.get_output_embeddings().weight.shape[-1]
    head = ValueHead(width)
    nn.init.normal_(head.summary.weight, std=1 / (width + 1))
    nn.init.zeros_(head.summary.bias)
    causal.add_module(NAME, head.to(causal.device))
    if file is not None:
        load_value_head(causal, file)


def find_value_head(model: ModelConfig, adapters: Sequence[Path] = ()) -> Path | None:
    """The file of the value head that belongs to the last of the adapters, or else to the model; None where there is none."""
    for folder in reversed(adapters):
        for name in (FILE, OLD_FILE):
            if (folder / name).is_file():
                return folder / name
    settled = settle(model)
    return find_file(settled, FILE, reach=False) or find_file(settled, OLD_FILE, reach=False)


def learned_by(file: Path) -> str:
    """What the head in `file` was learned for ("reward", "ppo"); "" where the file does not say."""
    if file.name == OLD_FILE:
        return ""
    try:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get(_LEARNED, "")
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{file} cannot be read: {problem}") from problem


def value_head_of(causal: nn.Module) -> ValueHead | None:
    """The head that `add_value_head` gave, or None."""
    found = getattr(causal, NAME, None)
    return found if isinstance(found, ValueHead) else None


@contextmanager
def without_value_head(causal: nn.Module) -> Iterator[None]:
    """While it is held, `causal` is the plain model that files are written of and read into."""
    head = causal._modules.pop(NAME, None)
    try:
        yield
    finally:
        if head is not None:
            causal.add_module(NAME, head)


@contextmanager
def with_value_head(causal: nn.Module, head: ValueHead) -> Iterator[None]:
    """While it is held, `head` is the value head of `causal`."""
    kept = causal._modules[NAME]
    causal.add_module(NAME, head)
    try:
        yield
    finally:
        causal.add_module(NAME, kept)


def copy_value_head(source: Path, folder: Path) -> None:
    """Write what is in the file `source` into `folder` as FILE, with what it says of itself."""
    metadata = {"format": "pt"} | ({_LEARNED: learned_by(source)} if learned_by(source) else {})
    save_file(_read(source), folder / FILE, metadata=metadata)


def save_value_head(head: ValueHead, folder: Path, learned: str) -> None:
    """Write FILE into `folder`. learned: by which kind of training, which tells whoever finds the file what the values are."""
    tensors = {f"{NAME}.{name}": tensor.detach().float().cpu().contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / FILE, metadata={"format": "pt", _LEARNED: learned})


@torch.no_grad()
def load_value_head(causal: PreTrainedModel, file: Path) -> None:
    """Read a saved head into the head of `causal`; ModelError where it cannot be read or does not fit."""
    head = value_head_of(causal)
    assert head is not None, "the model has no value head to read into"
    tensors = _read(file)
    for name, tensor in head.state_dict().items():
        found = tensors.get(f"{NAME}.{name}")
        if found is None or found.shape != tensor.shape:
            seen = "is not there" if found is None else f"has shape {tuple(found.shape)}"
            raise ModelError(f"{file}: {NAME}.{name} {seen}, wanted {tuple(tensor.shape)}: it is of another model")
        tensor.copy_(found)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return torch.load(file, map_location="cpu", weights_only=True) if file.name == OLD_FILE else load_file(file)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError) as problem:
        raise ModelError(f"{file} cannot be read: {problem}; train the reward model again (stage: rm)") from problem
