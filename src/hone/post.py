"""A JSON body sent to a server, and its answer's bytes, whole or line by line: the one way in which the house asks others.

Does not know what is asked, nor how often it is worth another try.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

_PIECE = 1 << 16
"""Bytes that are read at once, so that a server which trickles is noticed."""
_SHOWN = 300
"""Bytes of a refusal that are told."""
_HERE = ("127.0.0.1", "::1", "localhost")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Unanswered(Exception):
    """There is no answer; its words follow "the server at ...". status: of HTTP, None where it did not come so far."""

    def __init__(self, words: str, status: int | None = None):
        super().__init__(words)
        self.status = status


def post(url: str, body: Any, *, seconds: float, key: str = "") -> bytes:
    """The answer to a POST of `body`. seconds: for all of it; key: sent as a bearer's. Raises: Unanswered."""
    return _whole(_asked(url, body, key), seconds)


def get(url: str, *, seconds: float, key: str = "") -> bytes:
    """The answer to a GET. Raises: Unanswered."""
    return _whole(_asked(url, None, key), seconds)


def post_for_lines(url: str, body: Any, *, seconds: float, key: str = "") -> Iterator[bytes]:
    """The lines of the answer to a POST as they come; closing it closes the connection.

    seconds: of silence after which it is given up. Raises: Unanswered.
    """
    with _told(f"said nothing for {seconds:g} seconds"), _open(_asked(url, body, key), seconds) as reply:
        while line := reply.readline():
            yield line


def _whole(asked: urllib.request.Request, seconds: float) -> bytes:
    end, late = time.monotonic() + seconds, f"did not answer within {seconds:g} seconds"
    with _told(late), _open(asked, seconds) as reply:
        pieces = []
        while piece := reply.read1(_PIECE):
            pieces.append(piece)
            if time.monotonic() > end:
                raise Unanswered(late)
        return b"".join(pieces)


def _asked(url: str, body: Any, key: str) -> urllib.request.Request:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    content = None if body is None else json.dumps(body).encode()
    return urllib.request.Request(url, content, headers, method="GET" if body is None else "POST")


def _open(asked: urllib.request.Request, seconds: float) -> http.client.HTTPResponse:
    """A machine's own servers are asked without the proxy that it may have for all else."""
    if urlsplit(asked.full_url).hostname in _HERE:
        return _DIRECT.open(asked, timeout=seconds)
    return urllib.request.urlopen(asked, timeout=seconds)


@contextmanager
def _told(late: str) -> Iterator[None]:
    """What goes wrong within it, as Unanswered. late: the words for a time that has passed."""
    try:
        yield
    except urllib.error.HTTPError as problem:
        said = " ".join(problem.read(_SHOWN).decode(errors="replace").split())
        said = "" if said.startswith("<") else said  # a page for people
        raise Unanswered(f"answered {problem.code} {problem.reason}" + (f": {said}" if said else ""), problem.code) from problem
    except TimeoutError as problem:
        raise Unanswered(late) from problem
    except (OSError, http.client.HTTPException) as problem:
        reason = problem.reason if isinstance(problem, urllib.error.URLError) else problem
        raise Unanswered(late if isinstance(reason, TimeoutError) else f"cannot be reached ({reason})") from problem
