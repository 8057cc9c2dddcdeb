"""Which activations a layer keeps for its backward pass, and which are computed again there: one choice for all layers.

Does not know whether they would fit: the plan decides.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from hone.errors import ModelError
from hone.models.offload import Shuttle

Activations = Literal["kept", "selective", "full", "offloaded"]
"""All are kept; or results of products and attention alone are, and norms, activations and turned positions computed again; or
a layer's input alone is, on the device, or in host memory."""

KEPT_ABOVE = 256
"""A product is kept where each of its numbers is a sum of more terms than this. To compute fewer again costs no more than to
write and read the number, so an adapter's second product is not kept, nor an attention's scores."""

_PRODUCTS = {
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_grouped_mm",
    "grouped_mm_fallback",
    "_scaled_mm",
    "gemm_4bit",
    "int8_mixed_scaled_mm",
}
"""Of torch, transformers and bitsandbytes."""
_SECOND = {"addmm": 1, "baddbmm": 1}
"""Where the left factor stands among the arguments, if not first."""
ATTENTION = ("_scaled_dot_product_", "_flash_attention_forward", "_efficient_attention_forward", "_varlen_attn", "flex_attention")
"""How the names of attention's operations begin."""


def recompute_activations(module: nn.Module, kind: Activations = "full") -> None:
    """Recompute each layer in the backward pass, or what `kind` says of it; non-reentrant, so that frozen inputs get no gradient.

    Gradients are the same whatever the kind. Raises ModelError for a family that cannot.
    """
    if kind == "kept":
        return
    causal = next((inner for inner in module.modules() if isinstance(inner, PreTrainedModel)), None)
    if causal is None or not causal.supports_gradient_checkpointing:
        raise ModelError(f"{type(module).__name__} cannot recompute its activations; write gradient_checkpointing: false")
    renamed = hasattr(causal, "activation_checkpointing_enable")  # its name since transformers 5.23
    enable = causal.activation_checkpointing_enable if renamed else causal.gradient_checkpointing_enable
    settings: dict[str, Any] = {"use_reentrant": False}
    if kind == "selective":
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _choose)
    enable(settings)
    # It lets the embeddings' output have a gradient, which would go backward through all layers below the lowest that learns.
    causal.disable_input_require_grads()
    if kind == "offloaded":
        _offload(causal)


def _choose(_context: Any, operation: Any, *arguments: Any, **_rest: Any) -> CheckpointPolicy:
    """Whether one operation's result is kept."""
    name = operation.__name__.partition(".")[0]
    if any(name.startswith(start) for start in ATTENTION):
        return CheckpointPolicy.MUST_SAVE
    if name in _PRODUCTS and arguments[_SECOND.get(name, 0)].shape[-1] > KEPT_ABOVE:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _offload(causal: nn.Module) -> None:
    """Wrap what transformers gave each layer to recompute itself by."""
    shuttle = Shuttle(next(causal.parameters()).device)
    for layer in causal.modules():
        if isinstance(getattr(layer, "_gradient_checkpointing_func", None), partial):
            layer._gradient_checkpointing_func = shuttle.around(layer._gradient_checkpointing_func)
