"""OFT through peft: rotations, block by block, of what linear layers read (Qiu et al. 2023; OFTv2: Qiu et al. 2025).

Does not know training, nor what becomes of an adapter that is there: `lora` continues, merges and saves those of both kinds.

A layer gives W (R x) in place of W x. R is block-diagonal; each block is Cayley's (I + Q)(I - Q)^-1 of a skew-symmetric Q, by the
first terms of its Neumann series, as peft and LLaMA-Factory have it by default. It starts as the identity.
"""

from __future__ import annotations

import math

from peft import OFTConfig, PeftModel, get_peft_model
from torch import nn

from hone.adapters.lora import OWN, attach_tuned, name_head, rerouted, spared, trained_whole
from hone.adapters.parts import resting
from hone.adapters.targets import check_apart, choose_targets, find_modules, score_head
from hone.config.adapter import Oft
from hone.errors import ModelError

KEY = "oft_target"


def attach_oft(module: nn.Module, adapter: Oft, *, base_name: str, trainable: bool) -> nn.Module:
    """The module with an OFT adapter; see lora.attach_tuned."""
    return attach_tuned(module, adapter, _new, base_name=base_name, trainable=trainable)


def _new(module: nn.Module, adapter: Oft, base_name: str, quantized: bool) -> PeftModel:
    del quantized
    whole = trained_whole(module, adapter)
    targets = choose_targets(module, adapter.oft_target, rerouted(module), key=KEY, resting=resting(module, adapter))
    check_apart(module, targets, whole, pissa=False, key=KEY)
    _check_blocks(module, adapter, targets)
    _check_ends(module, whole)
    config = OFTConfig(
        task_type="SEQ_CLS" if score_head(module) is not None else "CAUSAL_LM",
        r=adapter.oft_rank,
        oft_block_size=0 if adapter.oft_rank else adapter.oft_block_size,
        module_dropout=adapter.module_dropout,
        target_modules=targets,
        modules_to_save=whole or None,
    )
    tuned = spared(get_peft_model(module, config, autocast_adapter_dtype=False))
    tuned.peft_config[OWN].base_model_name_or_path = base_name
    name_head(tuned)
    return tuned


def _check_ends(module: nn.Module, whole: list[str]) -> None:
    """ModelError where tied embeddings would be trained whole: peft 0.21 ties them again for LoRA alone."""
    ends = [end for end in (module.get_input_embeddings(), module.get_output_embeddings()) if end is not None]
    named = {id(module.get_submodule(path)): name for name in whole for path in find_modules(module, name, "additional_target")}
    name = next((named[id(end)] for end in ends if id(end) in named), "")
    if name and len(ends) == 2 and ends[0].weight is ends[1].weight:
        raise ModelError(
            f"{name} would be trained whole (additional_target, or a vocabulary that grew), and the model ties its embeddings, "
            "which finetuning_type: oft would part; write finetuning_type: lora"
        )


def _check_blocks(module: nn.Module, adapter: Oft, targets: list[str]) -> None:
    """ModelError where a target cannot be turned, or its inputs not be cut as asked: peft would take another size unasked."""
    widths = {}
    for path in (path for name in targets for path in find_modules(module, name, KEY)):
        layer = module.get_submodule(path)
        if not isinstance(layer, nn.Linear):
            raise ModelError(f"{KEY}: {path} is {type(layer).__name__}; inputs of linear layers are turned: leave it out")
        widths[path] = layer.in_features
    key, asked = ("oft_rank", adapter.oft_rank) if adapter.oft_rank else ("oft_block_size", adapter.oft_block_size)
    for path, width in widths.items():
        if width % asked:
            common = math.gcd(*widths.values())
            fits = max(number for number in range(1, min(asked, common) + 1) if not common % number)
            raise ModelError(
                f"{key}: {asked} does not divide the {width:,} inputs of {path}; {fits} divides those of every target"
            )
