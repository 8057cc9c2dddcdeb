"""The value head: one number a token from its hidden state, a reward or an expected return, learned beside the model.

Does not know what the numbers mean nor how they are learned.

Axes: B row, T token, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.errors import ModelError

FILE = "value_head.safetensors"
"""LLaMA-Factory's name of the file; inside, `v_head.summary.weight` [1, D] and `v_head.summary.bias` [1], fp32."""
NAME = "v_head"


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


def add_value_head(causal: PreTrainedModel, folder: Path | None = None) -> None:
    """Give `causal` a trainable value head: the one saved in `folder`, or a new one whose values are near 0 at first.

    Call it on all processes with the same seed. Raises ModelError where the file is of a model of another width.
    """
    width = causal.get_output_embeddings().weight.shape[-1]
    head = ValueHead(width)
    nn.init.normal_(head.summary.weight, std=1 / (width + 1))
    nn.init.zeros_(head.summary.bias)
    causal.add_module(NAME, head.to(causal.device))
    if folder is not None and (folder / FILE).is_file():
        load_value_head(causal, folder)


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


def save_value_head(head: ValueHead, folder: Path) -> None:
    """Write FILE into `folder`."""
    tensors = {f"{NAME}.{name}": tensor.detach().float().cpu().contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


@torch.no_grad()
def load_value_head(causal: PreTrainedModel, folder: Path) -> None:
    """Read FILE of `folder` into the head of `causal`; ModelError where it is missing or does not fit."""
    path, head = folder / FILE, value_head_of(causal)
    assert head is not None, "the model has no value head to read into"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{path} cannot be read: {problem}; train the reward model again (stage: rm)") from problem
    for name, tensor in head.state_dict().items():
        found = tensors.get(f"{NAME}.{name}")
        if found is None or found.shape != tensor.shape:
            seen = "is not there" if found is None else f"has shape {tuple(found.shape)}"
            raise ModelError(f"{path}: {NAME}.{name} {seen}, wanted {tuple(tensor.shape)}: it is of another model")
        tensor.copy_(found)
