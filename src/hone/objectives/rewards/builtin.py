"""The rewards that hone brings: pure functions of one answer.

Does not know how rewards are weighed, nor user's functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from hone.objectives.rewards.case import Case

DEFAULT_FORMAT = r"\s*(<think>)?.*?</think>\s*\S.*"
"""A thought, which the prompt may have opened, and words after it."""

_THOUGHT_END = "</think>"
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n\s*```", re.DOTALL)


@dataclass(frozen=True)
class Rules:
    """Numbers of the built-in rewards. pattern: what `format` looks for; longest: tokens of the longest answer allowed."""

    pattern: str = DEFAULT_FORMAT
    longest: int = 256


def conclusion(text: str) -> str:
    """What follows the thought, stripped: the answer itself."""
    return text.rpartition(_THOUGHT_END)[2].strip()


def exact_match(case: Case, rules: Rules) -> float:
    """1 where the answer, without its thought and outer white space, is the reference to the letter; else 0."""
    del rules
    return float(conclusion(case.completion) == conclusion(case.answer))


def numeric(case: Case, rules: Rules) -> float:
    """1 where the answer's number is the reference's: 18, 18.0 and $18.00 are one number; else 0, also without a number."""
    del rules
    found, wanted = final_number(conclusion(case.completion)), final_number(conclusion(case.answer))
    return float(found is not None and found == wanted)


def final_number(text: str) -> Decimal | None:
    r"""The number a text comes to: the one after its last "####" (GSM8K), else in its last \boxed{}, else its last one."""
    _, marked, after = text.rpartition("####")
    boxed = _BOXED.findall(text)
    where = after if marked else boxed[-1] if boxed else text
    numbers = _NUMBER.findall(where)
    if not numbers:
        return None
    try:
        return Decimal((numbers[0] if marked or boxed else numbers[-1]).replace(",", ""))
    except InvalidOperation:
        return None


def format_reward(case: Case, rules: Rules) -> float:
    """1 where the whole answer matches the pattern (a dot matches line ends too); else 0."""
    return float(re.fullmatch(rules.pattern, case.completion, re.DOTALL) is not None)


def length(case: Case, rules: Rules) -> float:
    """0 up to 4/5 of the longest answer, then down in a line to -1 at the longest.  Yu et al. 2025 (DAPO), eq. 13.

    DAPO's own numbers are 16384 tokens and 4096 more: the last fifth is the margin.
    """
    margin = max(1.0, rules.longest / 5)
    return min(0.0, max(-1.0, (rules.longest - margin - len(case.ids)) / margin))


def json_valid(case: Case, rules: Rules) -> float:
    """1 where the answer, or the one fenced block in it, is JSON; else 0. NaN and Infinity are not."""
    del rules
    text = conclusion(case.completion)
    blocks = _FENCE.findall(text)
    try:
        json.loads(blocks[0] if len(blocks) == 1 else text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


BUILTIN: dict[str, Callable[[Case, Rules], float]] = {
    "exact_match": exact_match,
    "numeric": numeric,
    "format": format_reward,
    "length": length,
    "json": json_valid,
}
"""By the name that reward_funcs takes."""

COMPARED: dict[str, tuple[str, Callable[[str], bool]]] = {
    "exact_match": ("an answer", lambda answer: bool(conclusion(answer))),
    "numeric": ("a number in its answer", lambda answer: final_number(conclusion(answer)) is not None),
}
"""Rewards that compare with a row's answer: what it must have, and whether it has; without it the reward is always 0."""
