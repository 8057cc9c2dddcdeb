"""A language model out of its files, or at random, with the head, type, attention, positions and bits asked for.

Does not know adapters, data or the optimizer.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.utils import logging as transformers_logging

from hone import log
from hone.config.model import ModelConfig
from hone.errors import ModelError
from hone.kernels.heap import keep_freed
from hone.models.attention import choose_attention
from hone.models.attention_packed import keep_own
from hone.models.checkpointing import Activations, recompute_activations
from hone.models.embeddings import resize_vocab
from hone.models.float8 import Float8Linear, hold_in_float8
from hone.models.fused import Fusing, fuse
from hone.models.media.families import family_of
from hone.models.place import check_folder, check_hub, explain, hub_arguments, settle
from hone.models.prepared import bound_prepared
from hone.models.quantize import freeze, in_float8, quantization_config
from hone.models.rope import stretch
from hone.models.score_head import NAME, ScoreHead, draw_head, is_scoring
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
    held: torch.device | None = None,
    activations: Activations = "kept",
    fused: Fusing = "auto",
    length: int | None = None,
    head: ScoreHead | None = None,
) -> PreTrainedModel:
    """The model of `model` for `device`, weights in `dtype`; in evaluation mode unless for_training.

    held: where the weights are put until somebody moves them, where that is not `device`; "meta" for none of their numbers.
    activations: what is kept for the backward pass. fused: whether operations are, of a model that is trained.
    length: longest text in tokens, for rope_scaling.
    head: in place of the head of words one that scores texts: the model's own, or a new one where it has none.
    train_from_scratch and a new head draw from torch's generator, which the caller seeds. A quantized base comes frozen.
    Raises ModelError for missing or unreadable files, weights that the files lack, and what the family cannot do.
    """
    model = settle(model, weights=not model.train_from_scratch)
    bound_prepared(device)
    if for_training and device.type == "cpu":
        keep_freed()
    config = load_config(model, scores=head is not None)
    if head is not None:
        head.apply(config, load_tokenizer(model).pad_token_id)
    if model.rope_scaling:
        stretch(config, model.rope_scaling, length)
    attention, held = choose_attention(model, config, device), held or device
    if model.train_from_scratch or held.type == "meta":
        with held if held.type == "meta" else nullcontext():
            module = _random(model, config, dtype, attention, head)
    else:
        module = _read(model, config, dtype, held, attention, head)
    if model.flash_attn != "auto":
        keep_own(module)
    if in_float8(model.quantization):
        hold_in_float8(module, held, () if head is None else (NAME,))
    if model.quantization is None or in_float8(model.quantization):
        module = module.to(held)
    if for_training:
        module.config.use_cache = False
        module.train()
    if head is None:
        _mend_generation(module)
    if model.resize_vocab or model.add_tokens or model.add_special_tokens:
        _resize(module, model)
    if for_training and model.quantization:
        freeze(module)
    if for_training and held == device:
        fuse(module, fused, device)
    recompute_activations(module, activations)
    log.info(f"loaded {model.model_name_or_path}: {describe(module)}")
    return module if for_training else module.eval()


def auto_class(head: ScoreHead | None, config: PretrainedConfig) -> Any:
    """transformers' class of models that write, also of what they are shown, or, with a head, of those that score whole texts."""
    if head is not None:
        return AutoModelForSequenceClassification
    return AutoModelForCausalLM if family_of(config) is None else AutoModelForMultimodalLM


def load_config(model: ModelConfig, *, scores: bool = False) -> PretrainedConfig:
    """The model's config; ModelError where there is none or it is not of a causal language model.

    scores: it is to score whole texts, which not every family can.
    """
    model = settle(model)
    place = model.model_name_or_path
    check_folder(place, ("config.json",), "config")
    check_hub(model, "config")
    try:
        config = AutoConfig.from_pretrained(place, **hub_arguments(model))
    except (OSError, ValueError, KeyError) as problem:
        raise explain(place, "config", problem) from problem
    _refuse_mlx(place, config)
    remote = "AutoModelForCausalLM" in (config.to_dict().get("auto_map") or {})
    known = family_of(config) is not None or type(config) in AutoModelForCausalLM._model_mapping
    if not known and not (remote and model.trust_remote_code):
        hint = "; write trust_remote_code: true to run the code that comes with it" if remote else ""
        raise ModelError(f"{place} is a {config.model_type}, which transformers does not know as a causal language model{hint}")
    if scores:
        _require_scoring(place, config)
    elif is_scoring(config):
        raise ModelError(
            f"{place} is a {config.architectures[0]}: its head scores texts and writes none; name a model that writes, or train "
            "it on with stage: classify or stage: rerank"
        )
    return config


def _refuse_mlx(place: str, config: PretrainedConfig) -> None:
    told = getattr(config, "quantization_config", None) or {}
    if isinstance(getattr(config, "quantization", None), dict) and isinstance(told, dict) and "quant_method" not in told:
        raise ModelError(
            f"{place} is in MLX's form, as `quantization` in its config.json says, which transformers does not read: run it with "
            f"mlx-lm (`mlx_lm.chat --model {place}`), or export again without export_quantization_method: mlx"
        )


def _require_scoring(place: str, config: PretrainedConfig) -> None:
    families = AutoModelForSequenceClassification._model_mapping
    if type(config) not in families:
        raise ModelError(
            f"{place} is a {config.model_type}, for which transformers has no class that scores texts "
            "(ForSequenceClassification); take a model of another family, such as Llama, Qwen or Gemma"
        )
    if not issubclass(families[type(config)], GenericForSequenceClassification):
        raise ModelError(
            f"{place} is a {config.model_type}, whose {families[type(config)].__name__} goes a way of its own, which is not "
            "known here; take a model of another family, such as Llama, Qwen or Gemma"
        )


def describe(module: PreTrainedModel) -> Loaded:
    """What a loaded model is."""
    weights = list(module.parameters())
    size = sum(tensor.numel() * tensor.element_size() for tensor in [*weights, *module.buffers()])
    kinds = {str(weight.dtype).removeprefix("torch.") for weight in weights if weight.is_floating_point()}
    bits = sorted({type(weight).__name__ for weight in weights} & {"Params4bit", "Int8Params"})
    bits += ["float8"] if any(isinstance(inner, Float8Linear) for inner in module.modules()) else []
    return Loaded(
        architecture=type(module).__name__,
        num_weights=module.num_parameters(),
        dtype="/".join(sorted(kinds) + bits),
        attention=module.config._attn_implementation or "its own",
        bytes=size,
    )


def _random(
    model: ModelConfig, config: PretrainedConfig, dtype: torch.dtype, attention: str | None, head: ScoreHead | None
) -> PreTrainedModel:
    if model.quantization:
        raise ModelError("train_from_scratch trains every weight; quantization_bit freezes them: leave one of them out")
    return auto_class(head, config).from_config(
        config, dtype=dtype, attn_implementation=attention, trust_remote_code=model.trust_remote_code
    )


def _read(
    model: ModelConfig,
    config: PretrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
    attention: str | None,
    head: ScoreHead | None,
) -> PreTrainedModel:
    place, is_new = model.model_name_or_path, head is not None and not is_scoring(config)
    arguments: dict[str, Any] = {**hub_arguments(model), "config": config, "dtype": dtype, "attn_implementation": attention}
    bnb = model.quantization is not None and not in_float8(model.quantization)
    if bnb:
        arguments["quantization_config"] = quantization_config(model.quantization, dtype, None if head is None else [NAME])
    if bnb or (device.type != "cpu" and not model.quantization):  # what is held in float8 goes there layer by layer
        arguments["device_map"] = {"": str(device)}  # straight to the device, never whole in host memory
    transformers_logging.disable_progress_bar()
    spoken = transformers_logging.get_verbosity()
    if is_new:  # it would report the head as missing, which it is and must be
        transformers_logging.set_verbosity_error()
    try:
        module, found = auto_class(head, config).from_pretrained(place, output_loading_info=True, **arguments)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as problem:
        raise explain(place, "model", problem) from problem
    finally:
        transformers_logging.set_verbosity(spoken)
    if is_new:  # what a base has in the head's place, and what it lacks, is as it must be
        found["missing_keys"] = [name for name in found["missing_keys"] if name != f"{NAME}.weight"]
        found["unexpected_keys"] = [name for name in found["unexpected_keys"] if not name.startswith("lm_head.")]
        draw_head(module)
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
