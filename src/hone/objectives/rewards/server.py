"""RewardServer: scores of texts from a reward model behind HTTP, asked as LLaMA-Factory asks (reward_model_type: api).

Does not know tokens, policies or what is made of the scores.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Any

from hone import log
from hone.errors import TrainingError
from hone.post import Unanswered, post

PAUSE = 1.0
"""Seconds before it is asked again; twice as many each time."""


class _Again(Exception):
    """It may go better the next time."""


class RewardServer:
    """`RewardServer("http://localhost:8000/v1/score/evaluation", seconds=60, retries=2)(texts)` gives a number a text.

    POSTs {"model": "model", "messages": texts} and wants {"scores": [a finite number for each]}. seconds: for each time it is
    asked; retries: after a connection that fails, a time that is over, or an error of the server's own (5xx).
    """

    def __init__(self, url: str, *, seconds: float, retries: int, pause: float = PAUSE):
        self.url, self._seconds, self._retries, self._pause = url, seconds, retries, pause

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """The scores, in order. Raises TrainingError, which names the URL, where they cannot be had or are no finite numbers."""
        if not texts:
            return []
        for attempt in range(self._retries + 1):
            try:
                return self._checked(self._ask(texts), texts)
            except _Again as problem:
                if attempt == self._retries:
                    raise TrainingError(f"{self._name()} {problem}; it was asked {attempt + 1} times") from problem
                log.warn(f"{self._name()} {problem}; it is asked again")
                time.sleep(self._pause * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _name(self) -> str:
        return f"reward_model: the server at {self.url}"

    def _ask(self, texts: Sequence[str]) -> bytes:
        try:
            return post(self.url, {"model": "model", "messages": list(texts)}, seconds=self._seconds)
        except Unanswered as problem:
            if problem.status is not None and problem.status < 500:
                raise TrainingError(f"{self._name()} {problem}") from problem
            late = " (reward_timeout)" if "within" in str(problem) else ""
            raise _Again(f"{problem}{late}") from problem

    def _checked(self, body: bytes, texts: Sequence[str]) -> list[float]:
        wanted = f'{{"scores": [...]}} with a number for each of {len(texts)} texts is wanted'
        try:
            scores: Any = json.loads(body)["scores"]
        except (ValueError, KeyError, TypeError) as problem:
            raise TrainingError(f"{self._name()} answered {body[:200]!r}; {wanted}") from problem
        if not isinstance(scores, list) or len(scores) != len(texts):
            seen = f"{len(scores)} scores" if isinstance(scores, list) else repr(scores)[:200]
            raise TrainingError(f"{self._name()} answered {seen}; {wanted}")
        for number, text in zip(scores, texts, strict=True):
            if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
                raise TrainingError(f"{self._name()} scored {number!r}, wanted a finite number; the text ends {text[-80:]!r}")
        return [float(number) for number in scores]
