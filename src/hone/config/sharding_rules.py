"""Rules of sharded training: what does not go with `fsdp`, each with the reason and what to write.

Does not know how weights are sharded.
"""

from __future__ import annotations

from collections.abc import Iterator

from hone.config.knobs import OWN_ANSWERS
from hone.config.needs import Finding
from hone.config.settings import Settings
from hone.config.sharding import findings_of

_OF_BLOCKS = ("adamw_8bit", "adamw_bnb_8bit", "lion_8bit", "lion_32bit")


def of_sharding(settings: Settings) -> Iterator[Finding]:
    """What is wrong with a sharded run."""
    words, config = settings["fsdp"], settings["fsdp_config"]
    if not words or words[0].lower() in ("false", "no", "off", "n", "0"):
        for key in ("fsdp_config", "fsdp_transformer_layer_cls_to_wrap"):
            if settings[key]:
                yield key, "has no effect without fsdp; write fsdp: true, or remove it"
        return
    yield from findings_of(words, config)
    if settings["quantization_bit"]:
        message = "weights in few bits are no numbers that can be cut into shares and sent in another type"
        yield "fsdp", f"{message}: leave quantization_bit out, or leave fsdp out and train by DDP"
    if settings["optim"].startswith("paged_") or settings["optim"] in _OF_BLOCKS:
        yield "optim", "of bitsandbytes keeps its numbers in blocks that are no shares; write optim: adamw_torch"
    if settings["optim"] == "adafactor":
        yield "optim", "adafactor takes means over whole rows and columns, and a process has a share of them; write adamw_torch"
    if settings["stage"] in OWN_ANSWERS:
        message = "draws answers, for which each process goes forward another number of times, and shares wait for each other"
        yield "fsdp", f"stage: {settings['stage']} {message}; leave fsdp out"
    if settings["ddp_find_unused_parameters"] is not None or settings["ddp_bucket_cap_mb"] is not None:
        key = "ddp_bucket_cap_mb" if settings["ddp_bucket_cap_mb"] is not None else "ddp_find_unused_parameters"
        yield key, "has no effect with fsdp; remove it"
