"""Metrics: counts and sums since the start, as Prometheus reads them.

Does not know what is asked.
"""

from __future__ import annotations

import time
from collections import Counter

from hone.serving.web import ASGIApp, Message, Receive, Scope, Send

HELP = {
    "hone_requests_total": ("counter", "Requests by path and status."),
    "hone_request_seconds_sum": ("counter", "Seconds from request to end of answer, by path."),
    "hone_request_seconds_count": ("counter", "Requests that these seconds are of."),
    "hone_prompt_tokens_total": ("counter", "Tokens read."),
    "hone_answer_tokens_total": ("counter", "Tokens drawn, of answers that came to their end."),
    "hone_first_token_seconds_sum": ("counter", "Seconds from request to first token, waiting included."),
    "hone_first_token_seconds_count": ("counter", "Requests that these seconds are of."),
    "hone_media_read_total": ("counter", "Pictures, films and sounds of requests that were read, by kind."),
    "hone_media_refused_total": ("counter", "Those that were refused, by kind and reason."),
    "hone_requests_running": ("gauge", "Requests that are answered now."),
    "hone_requests_waiting": ("gauge", "Requests that wait for their turn."),
}


class Metrics:
    """`metrics.add("hone_answer_tokens_total", 12)`; `metrics.page(...)` is the text."""

    def __init__(self) -> None:
        self._values: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, value: float = 1, **labels: object) -> None:
        """Count `value` more of `name`, which HELP lists."""
        assert name in HELP, name
        told = ",".join(f'{key}="{text}"' for key, text in labels.items())
        self._values[name, told] += value

    def page(self, **gauges: float) -> str:
        """Prometheus's text format, version 0.0.4; gauges: values of now, by name."""
        values = {**self._values, **{(name, ""): value for name, value in gauges.items()}}
        lines = []
        for name, (kind, help) in HELP.items():
            lines += [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]
            found = {told: value for (of, told), value in values.items() if of == name} or {"": 0}
            lines += [f"{name}{{{told}}} {value}" if told else f"{name} {value}" for told, value in sorted(found.items())]
        return "\n".join(lines) + "\n"


class Meter:
    """Counts every request that passes to `app`. paths: those that are told by name; others are one."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: frozenset[str]):
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and count once the answer is complete or given up."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 499  # nginx's number for a client that left before an answer

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = scope["path"].removeprefix(scope.get("root_path", ""))
        path = path if path in self._paths else "other"
        try:
            await self._app(scope, receive, watched)
        finally:
            self._metrics.add("hone_requests_total", path=path, status=status)
            self._metrics.add("hone_request_seconds_sum", time.monotonic() - begun, path=path)
            self._metrics.add("hone_request_seconds_count", path=path)
