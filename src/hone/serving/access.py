"""Access: who may ask, and how large a request may be. It stands before every route and socket, and reads no body itself.

Does not know what is asked, nor how a ticket is got.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie

from hone.serving.refusal import Refusal
from hone.serving.web import ASGIApp, HTTPException, JSONResponse, Message, Receive, Response, Scope, Send

OPEN = ("/health", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")
"""Paths that need no key: they tell nothing of the model or of others' requests."""
WITH_MEDIA = "/v1/chat/completions"
"""The path whose bodies may hold media."""
_LEFT = 1008
"""What a socket is closed with that may not ask: a policy is violated."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Pages:
    """Pages for a browser, which brings no header of ours: whoever has signed in with the key gets `ticket` as a cookie.

    root: the path that they are under; entry: where one signs in, and "/" leads to them. The cookie opens nothing else.
    """

    root: str
    entry: str
    ticket: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    cookie: str = "hone_ticket"

    def hold(self, path: str) -> bool:
        """Whether the path is one of theirs."""
        return path == self.root or path.startswith(f"{self.root}/")

    def lead_in(self, path: str) -> bool:
        """Whether the path is on the way to them, which needs no ticket."""
        return path in ("/", self.entry)

    def let_in(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a browser brings the ticket."""
        try:
            brought = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(self.cookie)
        except CookieError:
            return False
        return brought is not None and hmac.compare_digest(brought.value.encode("latin-1", "replace"), self.ticket.encode())


class Access:
    """Lets requests through to `app`. key: what they must bring as `Authorization: Bearer KEY`; "" lets everybody in.

    Without a key, a request must name this machine as its host: a web page whose name is turned to 127.0.0.1 (DNS rebinding)
    names another. max_bytes: of a body; media_bytes: that much more of a chat and of what a page is handed.
    pages: those that a ticket opens in the key's place, and nothing that other sites show.
    """

    def __init__(self, app: ASGIApp, *, key: str, max_bytes: int, media_bytes: int = 0, pages: Pages | None = None):
        self._app, self._key, self._pages = app, key.encode(), pages
        self._max_bytes, self._media_bytes = max_bytes, media_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with an error, or pass on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            self._check(scope, headers)
        except Refusal as no:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": _LEFT, "reason": str(no)[:100]})
                return
            if no.status == 401 and self._pages is not None and self._pages.hold(_path(scope)) and scope["method"] == "GET":
                entry = scope.get("root_path", "") + self._pages.entry
                await Response(status_code=303, headers={"Location": entry})(scope, receive, send)
                return
            challenge = {"WWW-Authenticate": "Bearer"} if no.status == 401 else {}
            await JSONResponse(no.body(), no.status, headers=challenge)(scope, receive, send)
            return
        await self._app(scope, self._bounded(receive, self._most(_path(scope))), send)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        path, pages = _path(scope), self._pages
        of_pages = pages is not None and (pages.hold(path) or pages.lead_in(path))
        if of_pages and b"origin" in headers and _address(headers[b"origin"]) != headers.get(b"host", b""):
            raise Refusal(403, "pages of other addresses may not use this one", code="origin_not_allowed")
        if not self._key:
            host = headers.get(b"host", b"").decode("latin-1")
            name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
            if not is_loopback(name.lower()):
                told = f"this server answers to 127.0.0.1 and localhost, not to {name[:80]!r}; with API_KEY set, to any name"
                raise Refusal(403, told, code="host_not_allowed")
        elif of_pages:
            if pages.hold(path) and not pages.let_in(headers):
                raise Refusal(401, f"sign in at {pages.entry}", code="invalid_api_key")
        elif path not in OPEN:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
                raise Refusal(401, "this server wants its key: Authorization: Bearer API_KEY", code="invalid_api_key")
        told_length = headers.get(b"content-length", b"0")
        if told_length.isdigit() and int(told_length[:20]) > (most := self._most(path)):
            raise _too_large(most)

    def _most(self, path: str) -> int:
        """Bytes of a body."""
        media = path == WITH_MEDIA or (self._pages is not None and self._pages.hold(path))
        return self._max_bytes + (self._media_bytes if media else 0)

    def _bounded(self, receive: Receive, most: int) -> Receive:
        """`receive`, counted: a body may be longer than it says, or not say."""
        num_read = 0

        async def bounded() -> Message:
            nonlocal num_read
            message = await receive()
            num_read += len(message.get("body", b""))
            if num_read > most:
                raise HTTPException(413, str(_too_large(most)))
            return message

        return bounded


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the body is larger than {most} bytes (api_max_body)", code="body_too_large")


def _path(scope: Scope) -> str:
    return scope["path"].removeprefix(scope.get("root_path", ""))


def _address(origin: bytes) -> bytes:
    """The host and port of a page's origin, as the header Host writes them."""
    return origin.partition(b"://")[2]
