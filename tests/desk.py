"""Desk: a small HTTP server of this machine for tests that ask one.

Does not know what it is asked for.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, bytes]


class Desk:
    """A server whose replies are made by `reply(number of the request, its JSON)`; `asked` is what it was asked."""

    def __init__(self, reply: Callable[[int, Any], Reply]):
        desk = self
        self.asked: list[Any] = []
        self.release = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                desk.asked.append(body)
                code, text = reply(len(desk.asked), body)
                self.send_response(code)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/score/evaluation"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
