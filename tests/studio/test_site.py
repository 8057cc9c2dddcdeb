"""Who may open the page and its socket, asked over HTTP and of the door itself."""

from __future__ import annotations

import asyncio

import pytest

from hone.config.environment import read_api_environment
from hone.errors import ConfigError
from hone.serving.access import Access, Pages
from tests.studio.conftest import KEY

PAGES = Pages("/chat", "/sign-in", ticket="t1")
SOCKET = "/chat/_nicegui_ws/socket.io/"


def knock(path, *, key="", kind="websocket", **headers) -> str:
    """ "in", or what the door sends first."""
    sent = []

    async def app(scope, receive, send):
        sent.append({"type": "in"})

    async def send(message):
        sent.append(message)

    given = [(name.encode(), value.encode()) for name, value in {"host": "localhost:8000", **headers}.items()]
    scope = {"type": kind, "path": path, "method": "GET", "headers": given}
    asyncio.run(Access(app, key=key, max_bytes=100, pages=PAGES)(scope, None, send))
    return str(sent[0].get("status", sent[0]["type"]))


def test_a_socket_passes_the_same_door_as_a_request():
    assert knock(SOCKET) == knock(SOCKET, origin="http://localhost:8000") == "in"
    assert knock(SOCKET, host="evil.example") == "websocket.close", "a name that was turned to 127.0.0.1"
    assert knock(SOCKET, origin="http://evil.example") == "websocket.close", "a page of another site"
    assert knock(SOCKET, origin="null") == "websocket.close"
    assert knock(SOCKET, origin="http://evil.example", kind="http") == "403", "the socket's other way, by requests"
    assert knock(SOCKET, key=KEY) == knock(SOCKET, key=KEY, cookie="hone_ticket=t2") == "websocket.close"
    assert knock(SOCKET, key=KEY, cookie="a=b; hone_ticket=t1") == "in"
    assert knock("/elsewhere", key=KEY, cookie="hone_ticket=t1") == "websocket.close"


def test_the_ticket_opens_pages_alone_and_the_key_the_api_alone():
    assert knock("/chat/", key=KEY, kind="http") == "303"
    assert knock("/chat/", key=KEY, kind="http", cookie="hone_ticket=t1") == "in"
    assert knock("/v1/models", key=KEY, kind="http", cookie="hone_ticket=t1") == "401"
    assert knock("/chatter", key=KEY, kind="http", cookie="hone_ticket=t1") == "401"
    assert knock("/v1/models", key=KEY, kind="http", authorization=f"Bearer {KEY}") == "in"
    assert "t1" not in repr(PAGES)


def test_signing_in(paged):
    http = paged.http
    http.headers.pop("Authorization")
    try:
        assert http.get("/chat/").headers["location"] == "/sign-in"
        wrong = http.post("/sign-in", data={"key": "wrong"})
        assert wrong.status_code == 401 and "set-cookie" not in wrong.headers
        assert http.post("/sign-in", data={"key": KEY}, headers={"Origin": "http://evil.example"}).status_code == 403
        assert http.post("/sign-in", content="k" * 20_000_000).status_code == 413
        right = http.post("/sign-in", data={"key": KEY})
        assert right.status_code == 303 and {"HttpOnly", "SameSite=strict"} <= set(right.headers["set-cookie"].split("; "))
        page = http.get("/chat/")
        assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
        assert http.get("/v1/models").status_code == 401
    finally:
        http.cookies.clear()
        http.headers["Authorization"] = f"Bearer {KEY}"
    assert http.get("/v1/models").status_code == 200 and http.get("/v1/none").json()["error"]["code"] is None


@pytest.mark.parametrize("name", ["GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "GRADIO_SHARE"])
def test_variables_of_gradio_are_refused_where_a_page_is_served(name):
    with pytest.raises(ConfigError, match=name):
        read_api_environment({name: "1"}, pages=True)
    assert read_api_environment({name: "1"}).port == 8000
