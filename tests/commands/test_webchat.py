"""hone webchat as a user meets it: LLaMA-Factory's command line, an address, and what cannot be chatted with."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading

import httpx2
import pytest
from tests.scoring import write_reward_adapter

from hone.commands import api
from hone.errors import MissingExtra
from hone.serving.access import Pages


class Bare:
    """A site of one page that needs no NiceGUI, of which a process has but one app."""

    pages = Pages("/chat", "/sign-in")

    def mount(self, app, desk, key):
        app.add_api_route("/chat/", lambda: {"names": desk.names}, methods=["GET"])


@pytest.fixture
def main(monkeypatch):
    pytest.importorskip("nicegui", reason="the extra webchat is not installed")
    from hone import cli
    from hone.commands import webchat

    monkeypatch.setattr(webchat, "ChatSite", Bare)
    return cli.main


def test_the_page_and_the_api_are_served_until_it_is_told_to_stop(main, tiny_model_dir, monkeypatch, capsys):
    told = []

    def ask(url):
        with httpx2.Client(base_url=url) as http:
            told.extend((http.get("/chat/").json(), http.get("/v1/models").json()["data"][0]["id"]))
        os.kill(os.getpid(), signal.SIGINT)

    def serve(app, listening, **options):
        threading.Thread(target=ask, args=(f"http://127.0.0.1:{listening.getsockname()[1]}",)).start()
        original(app, listening, **options)

    original, open_socket = api.serve, api.open_socket
    monkeypatch.setattr(api, "serve", serve)
    monkeypatch.setattr(api, "open_socket", lambda host, port, *, key: open_socket(host, 0, key=key))
    monkeypatch.setenv("API_MODEL_NAME", "mine")
    assert main(["webchat", "--model_name_or_path", str(tiny_model_dir), "--template", "qwen"]) in (0, 130)
    assert told == [{"names": ["mine"]}, "mine"]
    said = capsys.readouterr().err
    assert "to chat, open http://127.0.0.1:" in said and "/chat/\n" in said


def test_what_cannot_be_chatted_with_is_told(main, tiny_model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api, "open_socket", lambda host, port, *, key: open_socket(host, 0, key=key))
    open_socket = importlib.import_module("hone.serving.server").open_socket
    adapter = write_reward_adapter(tiny_model_dir, tmp_path / "reward")
    words = [f"model_name_or_path={tiny_model_dir}", f"adapter_name_or_path={adapter}", "stage=rm"]
    assert main(["webchat", *words]) == 2 and "no answers" in capsys.readouterr().err
    assert main(["webchat", f"model_name_or_path={tiny_model_dir}", "num_beams=2"]) == 2
    assert "hone webchat" in capsys.readouterr().err
    monkeypatch.setenv("API_HOST", "0.0.0.0")
    assert main(["webchat", f"model_name_or_path={tiny_model_dir}"]) == 2


def test_without_nicegui_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "hone.studio.web", raising=False)
    monkeypatch.setitem(sys.modules, "nicegui", None)
    with pytest.raises(MissingExtra, match=r'hone webchat needs the package nicegui: pip install "hone-llm\[webchat\]"'):
        importlib.import_module("hone.studio.web")
