"""ChatSite: the chat page in the API's app, its entrance, and what its pages may load: nothing of other addresses.

Does not know what the page shows.
"""

from __future__ import annotations

import hmac
from urllib.parse import parse_qs

from hone.serving.access import Pages
from hone.serving.desk import Desk
from hone.serving.web import ASGIApp, FastAPI, HTMLResponse, Message, Receive, RedirectResponse, Response, Scope, Send
from hone.serving.web import Request as Http
from hone.studio.page import mount_page

SEAL = {
    b"content-security-policy": b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    b"style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; form-action 'self'; "
    b"base-uri 'none'; object-src 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"same-origin",
    b"x-content-type-options": b"nosniff",
}
"""A picture that an answer links to would tell its address what was said. NiceGUI makes its scripts on the spot."""

ENTRANCE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>hone</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body{font:16px system-ui,sans-serif;display:grid;place-items:center;height:100vh;margin:0;background:#f6f7f9;color:#1f2937}
form{display:grid;gap:.75rem;width:18rem}
input,button{font:inherit;padding:.6rem .8rem;border-radius:.6rem;border:1px solid #cbd5e1}
button{background:#1f2937;color:#fff;border:0}p{color:#b91c1c;margin:0;min-height:1.2em}</style></head><body>
<form method="post"><label for="key">This server's key (API_KEY)</label>
<input id="key" name="key" type="password" autocomplete="current-password" autofocus required>
<button>Sign in</button><p>TOLD</p></form></body></html>"""


class ChatSite:
    """`build_app(..., site=ChatSite())`; one for each process, as NiceGUI has one app."""

    def __init__(self) -> None:
        self.pages = Pages("/chat", "/sign-in")

    def mount(self, app: FastAPI, desk: Desk, key: str) -> None:
        """See Site."""

        async def home() -> Response:
            return RedirectResponse("chat/", 307)

        async def entrance() -> Response:
            return HTMLResponse(ENTRANCE.replace("TOLD", "")) if key else RedirectResponse("chat/", 303)

        async def sign_in(http: Http) -> Response:
            given = parse_qs((await http.body()).decode("utf-8", "replace")).get("key", [""])[0]
            if not hmac.compare_digest(given.strip().encode("utf-8", "replace"), key.encode()):
                return HTMLResponse(ENTRANCE.replace("TOLD", "This is not the key."), 401)
            answer = RedirectResponse("chat/", 303)
            secure = http.url.scheme == "https"
            answer.set_cookie(self.pages.cookie, self.pages.ticket, httponly=True, samesite="strict", secure=secure)
            return answer

        app.add_api_route("/", home, methods=["GET"], include_in_schema=False)
        app.add_api_route(self.pages.entry, entrance, methods=["GET"], include_in_schema=False)
        app.add_api_route(self.pages.entry, sign_in, methods=["POST"], include_in_schema=False)
        mount_page(app, desk, self.pages.root)
        app.add_middleware(Sealed, pages=self.pages)


class Sealed:
    """Writes SEAL's headers on every answer that is a page's."""

    def __init__(self, app: ASGIApp, *, pages: Pages):
        self._app, self._pages = app, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or not (self._pages.hold(path) or self._pages.lead_in(path)):
            await self._app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *SEAL.items()]
            await send(message)

        await self._app(scope, receive, sealed)
