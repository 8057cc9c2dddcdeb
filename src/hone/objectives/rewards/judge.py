"""Judge: the rewards of answers by several functions, weighed and summed.

Does not know advantages or what is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from hone.objectives.rewards.builtin import BUILTIN, Rules
from hone.objectives.rewards.case import Case
from hone.objectives.rewards.function import RewardFunction, checked


@dataclass(frozen=True)
class Verdict:
    """reward: the weighed sum; parts: each function's own number, in the order of `Judge.names`."""

    reward: float
    parts: tuple[float, ...]


def names_of(functions: Sequence[str]) -> tuple[str, ...]:
    """What the log calls them: a built-in's own name, a user's function without its file where that leaves no doubt."""
    short = tuple(name.rpartition(":")[2] for name in functions)
    return short if len(set(short)) == len(short) else tuple(functions)


class Judge:
    """`Judge(("numeric", "rewards.py:brevity"), (1.0, 0.1), Rules(), seconds=60).judge(cases)`.

    names: of the functions, as the log calls them.
    """

    def __init__(self, functions: Sequence[str], weights: Sequence[float], rules: Rules, *, seconds: float):
        assert not weights or len(weights) == len(functions), "a weight for each function"
        self._rules, self._weights = rules, tuple(weights) or (1.0,) * len(functions)
        self._functions = [RewardFunction(name, seconds=seconds) if ":" in name else name for name in functions]
        self.names = names_of(functions)

    def start(self) -> None:
        """Load the users' functions, so that a missing one is told before anything is drawn."""
        for function in self._functions:
            if isinstance(function, RewardFunction):
                function.start()

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """A verdict a case, in order. Raises TrainingError as RewardFunction does."""
        columns = [self._call(function, cases) for function in self._functions]
        rows = zip(*columns, strict=True)
        return [Verdict(sum(w * part for w, part in zip(self._weights, parts, strict=True)), parts) for parts in rows]

    def _call(self, function: str | RewardFunction, cases: Sequence[Case]) -> list[float]:
        if isinstance(function, RewardFunction):
            return function(cases)
        one = partial(BUILTIN[function], rules=self._rules)
        return checked([one(case) for case in cases], function, cases)

    def close(self) -> None:
        """End the users' functions' processes."""
        for function in self._functions:
            if isinstance(function, RewardFunction):
                function.close()
