"""Which attention implementation a model is loaded with: what the user asked for, or an error that says why it cannot be.

Does not know how the model is trained.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, PretrainedConfig

from hone.config.model import ModelConfig
from hone.errors import ModelError
from hone.kernels.machine import AMPERE, HOPPER, capability_of
from hone.models.media.families import family_of

_PACKAGES = {
    "fa2": ("flash_attn", "flash-attn", "flash_attention_2", AMPERE),
    "fa3": ("flash_attn_interface", "flash-attn-3", "flash_attention_3", HOPPER),
}
"""Import name, package, transformers' name, and the oldest hardware."""


def choose_attention(model: ModelConfig, config: PretrainedConfig, device: torch.device) -> str | None:
    """transformers' name of the implementation; None leaves the choice to it (sdpa where the family has it, else eager).

    Raises ModelError where the one asked for is not installed, not for this device, or not written for this family.
    """
    asked = model.flash_attn
    if asked == "auto":
        return None
    if asked == "disabled":
        return "eager"
    supported = _supported(config)
    if asked == "sdpa":
        if supported is not None and "sdpa" not in supported:
            raise ModelError(f"flash_attn: {config.model_type} has no sdpa attention; write flash_attn: auto")
        return "sdpa"
    module, package, name, oldest = _PACKAGES[asked]
    if device.type == "cpu":
        raise ModelError(f"flash_attn: {asked} does not run on the CPU; write flash_attn: auto")
    if capability_of(device) < oldest:
        generation = "Ampere" if oldest == AMPERE else "Hopper"
        raise ModelError(f"flash_attn: {asked} needs an NVIDIA GPU of {generation} or newer; write flash_attn: auto")
    if find_spec(module) is None:
        raise ModelError(f"flash_attn: {asked} needs the package {package}; install it, or write flash_attn: auto")
    if supported is not None and "flash" not in supported:
        raise ModelError(f"flash_attn: {config.model_type} has no flash attention; write flash_attn: auto")
    return name


def _supported(config: PretrainedConfig) -> set[str] | None:
    """What the family's class says of itself; None for code that comes with the model, whose class is not known yet."""
    mapping = (AutoModelForCausalLM if family_of(config) is None else AutoModelForMultimodalLM)._model_mapping
    if type(config) not in mapping:
        return None
    family = mapping[type(config)]
    family = family[0] if isinstance(family, tuple) else family
    return {name for name, has in (("sdpa", family._supports_sdpa), ("flash", family._supports_flash_attn)) if has}
