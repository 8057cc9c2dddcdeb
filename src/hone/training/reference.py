"""Building the reference of a run: the base under its adapter, or another model that is loaded beside the one that learns.

Does not know what the policy is held against it for.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from hone import log
from hone.adapters.apply import attach, without_adapter
from hone.config.adapter import Full, Lora
from hone.config.model import Quantization
from hone.config.run import Run
from hone.errors import ModelError
from hone.models.load import load_model
from hone.models.place import hub_name
from hone.models.policy import Policy
from hone.models.reference import Reference
from hone.training.device import Device
from hone.training.plan import precision_of


def build_reference(run: Run, device: Device, policy: Policy, module: nn.Module) -> Reference:
    """ref_model (with ref_model_adapters), or the base with its adapter off, or, where every weight learns, a frozen copy.

    Raises ModelError where ref_model has another vocabulary than the model that learns.
    """
    asked = run.objective
    if not asked.ref_model and run.adapter.kind == "lora":
        if run.adapter.adapter_name_or_path and not run.adapter.create_new_adapter:
            log.once(
                "the reference is the base without the adapter that is continued; to hold the model against what it was before "
                "this run, write create_new_adapter: true, or ref_model with ref_model_adapters"
            )
        return Reference(policy, lambda: without_adapter(module))
    place = asked.ref_model or run.model.model_name_or_path
    log.info(f"the reference is {place}" + ("" if asked.ref_model else ", a frozen copy beside the one that learns"))
    return Reference(load_beside(run, device, place, asked.ref_model_adapters, asked.ref_model_quantization_bit, policy))


def load_beside(run: Run, device: Device, place: str, adapters: tuple[str, ...], bits: int | None, policy: Policy) -> Policy:
    """A frozen model beside `policy`, in the type this run computes in; the base's own settings hold where it is the base."""
    changes = {"model_name_or_path": place, "quantization": Quantization(bit=bits) if bits else None, "train_from_scratch": False}
    model = run.model.model_copy(update=changes)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}[precision_of(run.train)]
    module = load_model(model, dtype=dtype, device=device.device, for_training=False, length=run.data.cutoff_len)
    adapter = Lora(adapter_name_or_path=adapters) if adapters else Full()
    module = attach(module, adapter, base_name=hub_name(model), trainable=False)
    other = Policy(module)
    ours, theirs = _num_ids(policy), _num_ids(other)
    if ours != theirs:
        raise ModelError(
            f"{place} has a vocabulary of {theirs:,} and {Path(run.model.model_name_or_path).name} one of {ours:,}: their "
            "log-probs cannot be compared token by token; name a model of the same family"
        )
    other.self_test()
    policy.can_pack = policy.can_pack and other.can_pack  # one batch goes through both
    return other


def _num_ids(policy: Policy) -> int:
    return policy.causal.get_input_embeddings().weight.shape[0]
