"""Activations recomputed in the backward pass instead of kept.

Does not know whether they would fit: the plan decides.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from hone.errors import ModelError


def recompute_activations(module: nn.Module) -> None:
    """Recompute each layer in the backward pass, non-reentrant, so that frozen inputs need no gradient and get none.

    Raises ModelError for a family that cannot.
    """
    causal = next((inner for inner in module.modules() if isinstance(inner, PreTrainedModel)), None)
    if causal is None or not causal.supports_gradient_checkpointing:
        raise ModelError(f"{type(module).__name__} cannot recompute its activations; write gradient_checkpointing: false")
    renamed = hasattr(causal, "activation_checkpointing_enable")  # its name since transformers 5.23
    enable = causal.activation_checkpointing_enable if renamed else causal.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    # It lets the embeddings' output have a gradient, which would go backward through all layers below the lowest that learns.
    causal.disable_input_require_grads()
