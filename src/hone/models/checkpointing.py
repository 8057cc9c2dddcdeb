"""Which activations a layer keeps for its backward pass, and which are computed again there: one choice for all layers.

Does not know whether they would fit: the plan decides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from hone.errors import ModelError
from hone.kernels.fit import looks_gated, looks_like_norm
from hone.kernels.tiled import tiled
from hone.models.offload import Shuttle

Activations = Literal["kept", "selective", "full", "offloaded"]
"""All are kept; or results of products and attention alone are, and norms, activations and turned positions computed again; or
a layer's input alone is, on the device, or in host memory."""

KEPT_ABOVE = 256
"""A product is kept where each of its numbers is a sum of more terms than this. To compute fewer again costs no more than to
write and read the number, so an adapter's second product is not kept, nor an attention's scores."""

AT_ONCE = 2**25
"""Numbers of a feed-forward layer's inner width that are made at a time where it is computed again: 64 MiB in 16 bits, a few
thousand tokens of a large model, which keep a GPU busy."""

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
    else:
        _tile(causal)
    enable(settings)
    # It lets the embeddings' output have a gradient, which would go backward through all layers below the lowest that learns.
    causal.disable_input_require_grads()
    if kind == "offloaded":
        _offload(causal)


def _tile(causal: nn.Module) -> None:
    """Have what is of each token by itself computed some tokens at a time: feed-forward layers, and norms that are not fused."""
    for inner in causal.modules():
        own = vars(inner).get("forward")
        if looks_gated(inner) or (own is None and looks_like_norm(inner)):
            inner.forward = MethodType(_in_tiles(type(inner).forward if own is None else own.__func__), inner)


def tile_of(causal: nn.Module, kind: Activations, num_tokens: int) -> int:
    """Of a row of `num_tokens`, those that the widest feed-forward layer takes at a time; 0 for all at once."""
    if kind not in ("full", "offloaded"):
        return 0
    least = min((tokens_at_once(inner, 1) for inner in causal.modules() if looks_gated(inner)), default=num_tokens)
    return least if least < num_tokens else 0


def _in_tiles(own: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        rows, parts = tokens_at_once(self, x.shape[-1]), list(self.modules())[1:]
        if x.numel() <= rows * x.shape[-1] or any(one._forward_hooks or one._forward_pre_hooks for one in parts):
            return own(self, x)  # hooks of an engine that fetches weights when they are used would do so a second time
        random = any(isinstance(one, nn.Dropout) and one.training and one.p > 0 for one in parts)
        learning = [weight for weight in self.parameters() if weight.requires_grad]
        return tiled(partial(own, self), x, learning, rows, random=random)

    return forward


def tokens_at_once(module: nn.Module, width: int) -> int:
    """That a feed-forward layer, or a norm of `width`, takes at a time where activations are computed again."""
    inner = [layer.out_features for layer in module.children() if hasattr(layer, "out_features")]
    return max(256, AT_ONCE // max(inner, default=2 * width))


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
