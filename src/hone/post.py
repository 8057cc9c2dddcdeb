"""A JSON body sent to a server, and its answer's bytes: the one way in which the house asks others over HTTP.

Does not know what is asked, nor how often it is worth another try.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

_PIECE = 1 << 16
"""Bytes that are read at once, so that a server which trickles is noticed."""
_SHOWN = 300
"""Bytes of a refusal that are told."""


class Unanswered(Exception):
    """There is no answer; its words follow "the server at ...". status: of HTTP, None where it did not come so far."""

    def __init__(self, words: str, status: int | None = None):
        super().__init__(words)
        self.status = status


def post(url: str, body: Any, *, seconds: float) -> bytes:
    """The answer to a POST of `body`. seconds: for all of it. Raises: Unanswered."""
    asked = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST")
    end, late = time.monotonic() + seconds, f"did not answer within {seconds:g} seconds"
    try:
        with urllib.request.urlopen(asked, timeout=seconds) as reply:
            pieces = []
            while piece := reply.read1(_PIECE):
                pieces.append(piece)
                if time.monotonic() > end:
                    raise Unanswered(late)
            return b"".join(pieces)
    except urllib.error.HTTPError as problem:
        said = problem.read(_SHOWN).decode(errors="replace").strip()
        raise Unanswered(f"answered {problem.code} {problem.reason}" + (f": {said}" if said else ""), problem.code) from problem
    except TimeoutError as problem:
        raise Unanswered(late) from problem
    except (OSError, http.client.HTTPException) as problem:
        reason = problem.reason if isinstance(problem, urllib.error.URLError) else problem
        raise Unanswered(late if isinstance(reason, TimeoutError) else f"cannot be reached ({reason})") from problem
