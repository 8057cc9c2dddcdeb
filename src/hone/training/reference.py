"""Building the reference of a run: the base under its adapter, or another model that is loaded beside the one that learns.

Does not know what the policy is held against it for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from hone import log
from hone.adapters.apply import attach, without_adapter
from hone.config.adapter import Adapted, Full, Lora
from hone.config.model import ModelConfig, Quantization
from hone.config.objective import Referring
from hone.config.objectives.taught import Taught
from hone.config.run import Run
from hone.errors import ModelError
from hone.models.load import load_config, load_model
from hone.models.place import hub_name
from hone.models.policy import Policy
from hone.models.reference import Reference
from hone.models.shape import meta_model
from hone.models.tokenizer import load_tokenizer
from hone.training.device import Device
from hone.training.planning.memory import frozen_bytes
from hone.training.planning.plan import precision_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OF_THE_BASE = ("model_revision resize_vocab add_tokens add_special_tokens rope_scaling quantization train_from_scratch").split()
"""Settings that are said of the base model alone."""


@dataclass(frozen=True)
class Named:
    """What the settings say of a model beside the one that learns. key: the setting that names it; place: None for the base.

    bits: None where it is not quantized.
    """

    key: str
    place: str | None
    adapters: tuple[str, ...]
    bits: int | None


def _named(run: Run) -> Named:
    asked = run.objective
    if isinstance(asked, Taught):
        bits = asked.teacher_model_quantization_bit
        return Named("teacher_model", asked.teacher_model, asked.teacher_model_adapters, bits)
    return Named("ref_model", asked.ref_model, asked.ref_model_adapters, asked.ref_model_quantization_bit)


def build_reference(run: Run, device: Device, policy: Policy, module: nn.Module) -> Reference:
    """The model that the settings name beside the one that learns, with its adapters; else the base with its adapter off.

    Where every weight learns and none is named it is a frozen copy of the base.
    """
    model = model_beside(run)
    if model is None:
        if run.adapter.adapter_name_or_path and not run.adapter.create_new_adapter:
            log.once(
                "the reference is the base without the adapter that is continued; to hold the model against what it was before "
                "this run, write create_new_adapter: true, or ref_model with ref_model_adapters"
            )
        return Reference(policy, lambda: without_adapter(module))
    asked = _named(run)
    log.info(f"{asked.key} is {model.model_name_or_path}" + ("" if asked.place else ", a frozen copy beside the one that learns"))
    other = load_beside(run, device, model, asked.adapters)
    other.temperature = policy.temperature
    other.self_test()
    if device.context is not None:
        other.cut_over(device.context)
    policy.can_pack = policy.can_pack and other.can_pack  # one batch goes through both
    if policy.can_share:
        other.test_sharing()
        policy.can_share = other.can_share
    return Reference(other)


def is_precomputed(run: Run) -> bool:
    """Whether the reference's numbers are computed before training, and the reference then let go."""
    return isinstance(run.objective, Referring) and run.objective.precompute_ref


def model_beside(run: Run) -> ModelConfig | None:
    """The model that is loaded beside the one that learns; None where that one with its adapter off is held against itself."""
    asked = _named(run)
    if not asked.place:
        return None if isinstance(run.adapter, Adapted) else run.model.model_copy(update={"train_from_scratch": False})
    return other_model(run, asked.place, asked.bits)


def other_model(run: Run, place: str, bits: int | None) -> ModelConfig:
    """The settings of another model than the base, in `bits` where it is quantized.

    What is said of the base (its revision, its added tokens, its positions) is not said of a model that is named.
    """
    own = {key: ModelConfig.model_fields[key].default for key in _OF_THE_BASE}
    quantization = Quantization(bit=bits) if bits else None
    return run.model.model_copy(update={**own, "model_name_or_path": place, "quantization": quantization})


def load_beside(run: Run, device: Device, model: ModelConfig, adapters: tuple[str, ...]) -> Policy:
    """A frozen model with its adapters, in the type this run computes in."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}[precision_of(run.train)]
    module = load_model(model, dtype=dtype, device=device.device, for_training=False, length=run.data.cutoff_len)
    adapter = Lora(adapter_name_or_path=adapters) if adapters else Full()
    frozen = attach(module, adapter, base_name=hub_name(model), trainable=False).requires_grad_(False)
    return Policy(device.share(frozen), router_loss=0.0)


def require_same_tokens(run: Run, tokenizer: PreTrainedTokenizerBase) -> None:
    """ModelError where a model that is named beside the one that learns has other tokens, so that ids mean something else.

    Heads of one family are padded to different widths; that alone is no difference.
    """
    key, model = _named(run).key, model_beside(run)
    if model is None or not _named(run).place:
        return
    mine = tokenizer.get_vocab()
    with told_of(key):
        its = load_tokenizer(model).get_vocab()
    names = f"{key}: {model.model_name_or_path}", Path(run.model.model_name_or_path).name
    if mine != its:
        other = min((mine.items() ^ its.items()), key=lambda item: (item[1], item[0]))
        there, here = its.get(other[0], "none"), mine.get(other[0], "none")
        raise ModelError(
            f"{names[0]} has a vocabulary of {len(its):,} tokens and {names[1]} one of {len(mine):,}; {other[0]!r} has id "
            f"{there} there and {here} here. They are compared token by token: name a model of the same family"
        )
    rows = load_config(model).get_text_config().vocab_size
    if rows <= max(mine.values()):
        raise ModelError(f"{names[0]} knows {rows:,} ids, and the tokenizer of {names[1]} gives up to {max(mine.values()):,}")


@contextmanager
def told_of(key: str) -> Iterator[None]:
    """What is wrong with a model's place is told of `key`, which names it, and not of the base's."""
    try:
        yield
    except ModelError as problem:
        raise ModelError(str(problem).replace("model_name_or_path", key)) from problem


def bytes_beside(run: Run, model: ModelConfig | None) -> int:
    """What a model takes that is loaded beside the one that learns: its weights, in the type or the bits it is held in."""
    if model is None:
        return 0
    width = 2 if precision_of(run.train) != "no" else 4
    module = meta_model(model)
    num_weights = sum(weight.numel() for weight in module.parameters())
    return int(num_weights * frozen_bytes(module, width, model.quantization.bit if model.quantization else 0))
