"""Rules of learning from one's own answers: how they must be drawn, and what their rewards need.

Does not know files; a rule sees values and answers with what to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hone.config.knobs import OWN_ANSWERS
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


def of_reward_model(settings: Settings) -> Iterator[Finding]:
    """What is wrong with reward_model and its type."""
    if settings["stage"] != "ppo":
        return
    place, kind = settings["reward_model"], settings["reward_model_type"]
    if not place:
        yield "reward_model", "is missing; write the folder of a reward model (stage: rm makes one), or a server's URL"
    elif kind == "api" and not re.match("https?://[^/]", place):
        yield "reward_model", f'saw "{place}", wanted a URL with reward_model_type: api, such as http://localhost:8000/score'
    elif kind != "api" and re.match("https?://", place):
        yield "reward_model", "is a URL; write reward_model_type: api beside it"
    if kind == "lora" and settings["finetuning_type"] != "lora":
        message = "the adapter that scores would sit on weights that learn; write reward_model_type: full or api"
        yield "reward_model_type", f"{message}, or finetuning_type: lora"
    if settings["pissa_init"] and (kind == "lora" or not settings["ref_model"]):
        own = "reward_model_type: full, with ref_model" if kind == "lora" else "ref_model beside it"
        yield "pissa_init", f"changes the base weights, which the model is held against or scored on; remove it, or write {own}"


def of_drawing(settings: Settings) -> Iterator[Finding]:
    """Ways of drawing answers from which nothing right can be learned."""
    stage = settings["stage"]
    if stage not in OWN_ANSWERS:
        return
    if not settings["do_sample"]:
        why = "so that it never learns what to do elsewhere" if stage == "gkd" else "so that none is better than another"
        yield "do_sample", f"draws the same answer each time, {why}; remove it"
    if settings["num_beams"] > 1:
        yield "num_beams", f"searches, and what is learned with stage: {stage} must be drawn; remove it"
    if settings["repetition_penalty"] != 1:
        yield "repetition_penalty", "draws from another distribution than the one that is learned; remove it"
    if settings["max_new_tokens"] == 0:
        yield "max_new_tokens", "saw 0, wanted the longest answer to draw, in tokens"
    yield from _of_rollout_server(settings)


def _of_rollout_server(settings: Settings) -> Iterator[Finding]:
    """What a server that draws cannot take over, or cannot tell the figures of."""
    url = settings["rollout_server"]
    if not url:
        return
    if not re.match("https?://[^/]", url):
        yield "rollout_server", f'saw "{url}", wanted a URL such as http://localhost:8000'
    if settings["finetuning_type"] != "lora":
        message = f"takes over an adapter alone, and finetuning_type: {settings['finetuning_type']} makes none that it reads"
        yield "rollout_server", f"{message}; write finetuning_type: lora, or remove it"
    for key in ("use_dora", "additional_target", "resize_vocab", "add_tokens", "add_special_tokens"):
        if settings[key]:
            yield key, "is not known to vLLM's adapters; remove it, or rollout_server"
    if settings["top_p"] != 1:
        yield "top_p", f"saw {settings['top_p']:g}, and of such draws rollout_server tells no log-probs of the policy; write 1"
    if settings["top_k"] != 0:
        yield "top_k", f"saw {settings['top_k']}, and of such draws rollout_server tells no log-probs of the policy; write 0"
