"""A causal language model out of its files, or at random, with the type, attention, positions and bits asked for.

Does not know adapters, data or the optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from hone import log
from hone.config.model import ModelConfig
from hone.errors import ModelError
from hone.models.attention import choose_attention
from hone.models.checkpointing import recompute_activations
from hone.models.embeddings import resize_vocab
from hone.models.place import check_folder, check_hub, explain, hub_arguments, settle
from hone.models.prepared import bound_prepared
from hone.models.quantize import freeze, quantization_config
from hone.models.rope import stretch
from hone.models.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Loaded:
    """What stands in memory. bytes: of all weights and buffers as they are held."""

    architecture: str
    num_weights: int
    dtype: str
    attention: str
    bytes: int

    def __str__(self) -> str:
        weights, size = f"{self.num_weights / 1e6:,.1f} M weights", f"{self.bytes / 2**20:,.0f} MiB"
        return f"{self.architecture}: {weights}, {self.dtype}, {self.attention} attention, {size}"


def load_model(
    model: ModelConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    for_training: bool,
    recompute: bool = False,
    length: int | None = None,
) -> PreTrainedModel:
    """The model of `model` on `device`, weights in `dtype`; in evaluation mode unless for_training.

    recompute: activations are recomputed in the backward pass. length: longest text in tokens, for rope_scaling.
    train_from_scratch draws from torch's generator, which the caller seeds. A quantized base comes frozen.
    Raises ModelError for missing or unreadable files, weights that the files lack, and what the family cannot do.
    """
    model = settle(model, weights=not model.train_from_scratch)
    bound_prepared(device)
    config = load_config(model)
    if model.rope_scaling:
        stretch(config, model.rope_scaling, length)
    attention = choose_attention(model, config, device)
    module = (
        _random(model, config, dtype, attention) if model.train_from_scratch else _read(model, config, dtype, device, attention)
    )
    if not model.quantization:
        module = module.to(device)
    if for_training:
        module.config.use_cache = False
        module.train()
    _mend_generation(module)
    if model.resize_vocab or model.add_tokens or model.add_special_tokens:
        _resize(module, model)
    if for_training and model.quantization:
        freeze(module)
    if recompute:
        recompute_activations(module)
    log.info(f"loaded {model.model_name_or_path}: {describe(module)}")
    return module if for_training else module.eval()


def load_config(model: ModelConfig) -> PretrainedConfig:
    """The model's config; ModelError where there is none or it is not of a causal language model."""
    model = settle(model)
    place = model.model_name_or_path
    check_folder(place, ("config.json",), "config")
    check_hub(model, "config")
    try:
        config = AutoConfig.from_pretrained(place, **hub_arguments(model))
    except (OSError, ValueError, KeyError) as problem:
        raise explain(place, "config", problem) from problem
    remote = "AutoModelForCausalLM" in (config.to_dict().get("auto_map") or {})
    if type(config) not in AutoModelForCausalLM._model_mapping and not (remote and model.trust_remote_code):
        hint = "; write trust_remote_code: true to run the code that comes with it" if remote else ""
        raise ModelError(f"{place} is a {config.model_type}, which transformers does not know as a causal language model{hint}")
    return config


def describe(module: PreTrainedModel) -> Loaded:
    """What a loaded model is."""
    weights = list(module.parameters())
    size = sum(tensor.numel() * tensor.element_size() for tensor in [*weights, *module.buffers()])
    kinds = {str(weight.dtype).removeprefix("torch.") for weight in weights if weight.is_floating_point()}
    bits = sorted({type(weight).__name__ for weight in weights} & {"Params4bit", "Int8Params"})
    return Loaded(
        architecture=type(module).__name__,
        num_weights=module.num_parameters(),
        dtype="/".join(sorted(kinds) + bits),
        attention=module.config._attn_implementation or "its own",
        bytes=size,
    )


def _random(model: ModelConfig, config: PretrainedConfig, dtype: torch.dtype, attention: str | None) -> PreTrainedModel:
    if model.quantization:
        raise ModelError("train_from_scratch trains every weight; quantization_bit freezes them: leave one of them out")
    return AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation=attention, trust_remote_code=model.trust_remote_code
    )


def _read(
    model: ModelConfig, config: PretrainedConfig, dtype: torch.dtype, device: torch.device, attention: str | None
) -> PreTrainedModel:
    place = model.model_name_or_path
    arguments: dict[str, Any] = {**hub_arguments(model), "config": config, "dtype": dtype, "attn_implementation": attention}
    if model.quantization:
        arguments["quantization_config"] = quantization_config(model.quantization, dtype)
    if model.quantization or device.type != "cpu":
        arguments["device_map"] = {"": str(device)}  # straight to the device, never whole in host memory
    transformers_logging.disable_progress_bar()
    try:
        module, found = AutoModelForCausalLM.from_pretrained(place, output_loading_info=True, **arguments)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as problem:
        raise explain(place, "model", problem) from problem
    _check_complete(place, found)
    return module


def _check_complete(place: str, found: dict[str, Any]) -> None:
    """A weight that the files lack would be random: that is an error, never a warning. Weights nobody reads are said once."""
    missing, mismatched = sorted(found["missing_keys"]), sorted(map(str, found["mismatched_keys"]))
    if missing or mismatched:
        names = ", ".join((missing + mismatched)[:8])
        raise ModelError(
            f"{place}: {len(missing) + len(mismatched)} weights of the model are not in its files, or have another shape: "
            f"{names}; the files are incomplete or of another architecture than config.json says"
        )
    unread = sorted(found["unexpected_keys"])
    if unread:
        names = ", ".join(unread[:5])
        log.once(f"{place}: {len(unread)} weights in the files belong to no part of the model and are not read: {names}")


def _mend_generation(module: nn.Module) -> None:
    """Some published generation configs hold sampling numbers without do_sample, which transformers then refuses to save."""
    settings = module.generation_config
    if settings is None or settings.do_sample:
        return
    sampling = (settings.temperature, settings.top_p, settings.top_k, settings.typical_p)
    if any(number not in (None, 1.0, 0, 50) for number in sampling):
        settings.do_sample = True


def _resize(module: PreTrainedModel, model: ModelConfig) -> None:
    if model.quantization:
        raise ModelError("resize_vocab: the embeddings of a quantized base cannot grow; leave quantization_bit out")
    resize_vocab(module, load_tokenizer(model))
