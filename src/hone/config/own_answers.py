"""Rules of learning from one's own answers: how they must be drawn, and what their rewards need.

Does not know files; a rule sees values and answers with what to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hone.config.needs import Finding
from hone.config.objective import BUILTIN_REWARDS
from hone.config.settings import Settings
from hone.table import nearest


def of_rewards(settings: Settings) -> Iterator[Finding]:
    """What is wrong with reward_funcs and what belongs to them."""
    if settings["stage"] != "grpo":
        return
    names, weights, pattern = settings["reward_funcs"], settings["reward_weights"], settings["reward_format_pattern"]
    known = f"{', '.join(BUILTIN_REWARDS)}, or your own: package.module:function or path/to/file.py:function"
    if not names:
        yield "reward_funcs", f"is missing; write what makes an answer good: {known}"
    for name in names:
        if ":" not in name and name not in BUILTIN_REWARDS:
            yield "reward_funcs", f'saw "{name}"{nearest(name, list(BUILTIN_REWARDS))}, wanted {known}'
    if weights and len(weights) != len(names):
        yield "reward_weights", f"saw {len(weights)} weights for {len(names)} names in reward_funcs; write one for each"
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as problem:
            yield "reward_format_pattern", f"is no regular expression: {problem}"


def of_drawing(settings: Settings) -> Iterator[Finding]:
    """Ways of drawing answers from which nothing right can be learned."""
    if settings["stage"] != "grpo":
        return
    if not settings["do_sample"]:
        yield "do_sample", "draws the same answer each time, so that none is better than another; remove it"
    if settings["num_beams"] > 1:
        yield "num_beams", "searches, and what is learned with stage: grpo must be drawn; remove it"
    if settings["repetition_penalty"] != 1:
        yield "repetition_penalty", "draws from another distribution than the one that is learned; remove it"
    if settings["max_new_tokens"] == 0:
        yield "max_new_tokens", "saw 0, wanted the longest answer to draw, in tokens"
