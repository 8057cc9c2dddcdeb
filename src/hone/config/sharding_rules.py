"""Rules of sharded training: what does not go with `fsdp`, each with the reason and what to write.

Does not know how weights are sharded.
"""

from __future__ import annotations

from collections.abc import Iterator

from hone.config.knobs import OWN_ANSWERS
from hone.config.needs import Finding
from hone.config.settings import Settings
from hone.config.sharding import read_sharding

_OF_BLOCKS = ("adamw_8bit", "adamw_bnb_8bit", "lion_8bit", "lion_32bit")


def of_sharding(settings: Settings) -> Iterator[Finding]:
    """What is wrong with a sharded run."""
    words, config = settings["fsdp"], settings["fsdp_config"]
    together = settings["tensor_parallel_size"]
    if not together > 1 and (not words or words[0].lower() in ("false", "no", "off", "n", "0")):
        for key in ("fsdp_config", "fsdp_transformer_layer_cls_to_wrap"):
            if settings[key]:
                yield key, "has no effect without fsdp; write fsdp: true, or remove it"
        return
    sharding, findings = read_sharding(words, config if isinstance(config, dict) else {})  # a file that is none was told of
    yield from findings
    if together > 1:
        yield from _of_products(settings)
    if settings["quantization_bit"] == 8:
        message = "weights in 8 bits are kept in two parts, of which one would be cut"
        yield "fsdp", f"{message}: write quantization_bit: 4, or leave fsdp out and train by DDP"
    if settings["quantization_bit"] == 4 and sharding.one_loads:
        message = "the scales of weights in 4 bits are read by each process"
        yield "fsdp_config", f"cpu_ram_efficient_loading: {message}: leave it out"
    if sharding.one_loads and settings["fused_kernels"] is True:
        message = "is tried on a layer's weights by every process, and cpu_ram_efficient_loading gives them to one"
        yield "fused_kernels", f"{message}; leave one of them out"
    if settings["optim"].startswith("paged_") or settings["optim"] in _OF_BLOCKS:
        yield "optim", "of bitsandbytes keeps its numbers in blocks that are no shares; write optim: adamw_torch"
    if settings["optim"] == "adafactor":
        yield "optim", "adafactor takes means over whole rows and columns, and a process has a share of them; write adamw_torch"
    if settings["stage"] in OWN_ANSWERS:
        message = "draws answers, for which each process goes forward another number of times, and shares wait for each other"
        yield "fsdp", f"stage: {settings['stage']} {message}; leave fsdp out"
    if settings["do_predict"]:
        message = "draws answers, for which each process goes forward another number of times, and shares wait for each other"
        yield "do_predict", f"{message}; train first, and predict by another run of one process a model"
    if settings["ddp_find_unused_parameters"] is not None or settings["ddp_bucket_cap_mb"] is not None:
        key = "ddp_bucket_cap_mb" if settings["ddp_bucket_cap_mb"] is not None else "ddp_find_unused_parameters"
        yield key, "has no effect with fsdp; remove it"


def _of_products(settings: Settings) -> Iterator[Finding]:
    """What does not go with layers that several processes compute."""
    if settings["finetuning_type"] not in ("full", "freeze"):
        message = "cuts the weights that an adapter stands beside, and peft's parts are whole"
        yield "tensor_parallel_size", f"{message}; write finetuning_type: full, or fsdp: true in its place"
    if settings["fused_kernels"] is True:
        yield "fused_kernels", "is of whole layers, and tensor_parallel_size cuts them; leave one of them out"
