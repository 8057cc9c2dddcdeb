"""A server with the chat page, whose answers a test writes. NiceGUI has one app a process, so there is one for all tests."""

from __future__ import annotations

import pytest

from hone.chat.codec import build_codec
from hone.config.chat import ChatConfig
from hone.serving.desk import Served
from tests.serving.servers import NAME, Scripted, live

KEY = "a-key-of-some-length"


@pytest.fixture(scope="session")
def codec(tiny_tokenizer):
    return build_codec(ChatConfig(template="qwen3"), tiny_tokenizer)


@pytest.fixture(scope="session")
def speaker(codec):
    """The engine behind the page; tests set its script."""
    return Scripted(codec, adapters=("law",), media=frozenset({"image"}))


@pytest.fixture(scope="session")
def site():
    """The site of the page; its desk is there once it is mounted."""
    pytest.importorskip("nicegui", reason="the extra webchat is not installed")
    from hone.studio.site import ChatSite

    class Kept(ChatSite):
        def mount(self, app, desk, key):
            self.desk = desk
            super().mount(app, desk, key)

    return Kept()


@pytest.fixture(scope="session")
def paged(speaker, site):
    """A server with API and page, behind a key."""
    with live(Served(NAME, engine=speaker), key=KEY, site=site) as server:
        yield server
