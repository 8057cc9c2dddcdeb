"""Rules of rows that are cut over processes: what does not go with `context_parallel_size`, each with the reason.

Does not know how a row is cut.
"""

from __future__ import annotations

from collections.abc import Iterator

from hone.config.needs import Finding
from hone.config.settings import Settings

_STAGES = ("pt", "sft", "dpo", "kto")
_KEY = "context_parallel_size"


def of_context(settings: Settings) -> Iterator[Finding]:
    """What is wrong with a run whose rows are cut."""
    if settings[_KEY] == 1:
        return
    if settings["stage"] not in _STAGES:
        yield _KEY, f"learns by log-probs alone, so not with stage: {settings['stage']}; it goes with {', '.join(_STAGES)}"
    if settings["deepspeed"]:
        yield _KEY, "goes with fsdp and not with deepspeed; remove one of them"
    if settings["tensor_parallel_size"] > 1:
        yield _KEY, "shares out the heads that tensor_parallel_size shares out too; remove one of them"
    if settings["flash_attn"] != "auto":
        yield "flash_attn", f"{_KEY} needs hone's own attention of packed rows; leave flash_attn out"
    if settings["neftune_noise_alpha"]:
        yield "neftune_noise_alpha", f"goes by the length of a text, of which {_KEY} gives a process a part; remove one of them"
    if settings["do_predict"]:
        yield "do_predict", f"draws answers, which are not cut; remove {_KEY}, or predict by another run"
