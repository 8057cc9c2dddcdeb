"""Access: who may ask, and how large a request may be. It stands before every route, and reads no body itself.

Does not know what is asked.
"""

from __future__ import annotations

import hmac
import ipaddress

from hone.serving.refusal import Refusal
from hone.serving.web import ASGIApp, HTTPException, JSONResponse, Message, Receive, Scope, Send

OPEN = ("/health", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")
"""Paths that need no key: they tell nothing of the model or of others' requests."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """Lets requests through to `app`. key: what they must bring as `Authorization: Bearer KEY`; "" lets everybody in.

    Without a key, a request must name this machine as its host: a web page whose name is turned to 127.0.0.1 (DNS rebinding)
    names another. max_bytes: of a body.
    """

    def __init__(self, app: ASGIApp, *, key: str, max_bytes: int):
        self._app, self._key, self._max_bytes = app, key.encode(), max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with an error, or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            self._check(scope, headers)
        except Refusal as no:
            challenge = {"WWW-Authenticate": "Bearer"} if no.status == 401 else {}
            await JSONResponse(no.body(), no.status, headers=challenge)(scope, receive, send)
            return
        await self._app(scope, self._bounded(receive), send)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not self._key:
            host = headers.get(b"host", b"").decode("latin-1")
            name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
            if not is_loopback(name.lower()):
                told = f"this server answers to 127.0.0.1 and localhost, not to {name[:80]!r}; with API_KEY set, to any name"
                raise Refusal(403, told, code="host_not_allowed")
        elif path not in OPEN:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
                raise Refusal(401, "this server wants its key: Authorization: Bearer API_KEY", code="invalid_api_key")
        told_length = headers.get(b"content-length", b"0")
        if told_length.isdigit() and int(told_length[:20]) > self._max_bytes:
            raise self._too_large()

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self._max_bytes} bytes (api_max_body)", code="body_too_large")

    def _bounded(self, receive: Receive) -> Receive:
        """`receive`, counted: a body may be longer than it says, or not say."""
        num_read = 0

        async def bounded() -> Message:
            nonlocal num_read
            message = await receive()
            num_read += len(message.get("body", b""))
            if num_read > self._max_bytes:
                raise HTTPException(413, str(self._too_large()))
            return message

        return bounded
