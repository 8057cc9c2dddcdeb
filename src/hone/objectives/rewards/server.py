"""RewardServer: scores of texts from a reward model behind HTTP, asked as LLaMA-Factory asks (reward_model_type: api).

Does not know tokens, policies or what is made of the scores.
"""

from __future__ import annotations

import http.client
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from hone import log
from hone.errors import TrainingError

PIECE = 1 << 16
"""Bytes that are read at once, so that a server which trickles is noticed."""
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
        body = json.dumps({"model": "model", "messages": list(texts)}).encode()
        asked = urllib.request.Request(self.url, body, {"Content-Type": "application/json"}, method="POST")
        end = time.monotonic() + self._seconds
        late = f"did not answer within {self._seconds:g} seconds (reward_timeout)"
        try:
            with urllib.request.urlopen(asked, timeout=self._seconds) as reply:
                pieces = []
                while piece := reply.read1(PIECE):
                    pieces.append(piece)
                    if time.monotonic() > end:
                        raise _Again(late)
                return b"".join(pieces)
        except urllib.error.HTTPError as problem:
            said = problem.read(300).decode(errors="replace").strip()
            told = f"answered {problem.code} {problem.reason}" + (f": {said}" if said else "")
            if problem.code >= 500:
                raise _Again(told) from problem
            raise TrainingError(f"{self._name()} {told}") from problem
        except TimeoutError as problem:
            raise _Again(late) from problem
        except (OSError, http.client.HTTPException) as problem:
            reason = problem.reason if isinstance(problem, urllib.error.URLError) else problem
            raise _Again(late if isinstance(reason, TimeoutError) else f"cannot be reached ({reason})") from problem

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
