"""The card tells of the run, and a folder goes to a hub: a small server of its endpoints stands in for Hugging Face's."""

from __future__ import annotations

import base64
import json
import shutil
import sys
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from huggingface_hub import ModelCard

from hone import cli
from hone.config.model import ModelConfig
from hone.errors import ExportError
from hone.export.push import push
from tests.export.whole import run_export


class Hub(BaseHTTPRequestHandler):
    """Keeps what is committed; a token other than "may-write" is refused."""

    files: dict[str, bytes]
    made: list[dict]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("authorization") != "Bearer may-write":
            return self._answer({"error": "this token may not write"}, 403)
        if self.path == "/api/repos/create":
            self.made.append(json.loads(text))
            return self._answer({"url": f"http://{self.headers['Host']}/you/mine"})
        if "/preupload/" in self.path:
            asked = json.loads(text)["files"]
            answer = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            return self._answer({"files": answer})
        if "/commit/" in self.path:
            for one in map(json.loads, text.splitlines()):
                if one["key"] == "file":
                    self.files[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            place = f"http://{self.headers['Host']}/you/mine/commit/{'0' * 40}"
            return self._answer({"commitUrl": place, "commitOid": "0" * 40, "success": True, "hookOutput": ""})
        return self._answer({"valid": True, "errors": [], "warnings": []})  # /api/validate-yaml

    def do_GET(self) -> None:
        self._answer({"id": "you/mine", "sha": "0" * 40, "siblings": []})

    def _answer(self, said: dict, code: int = 200) -> None:
        text = json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    kept = type("Kept", (Hub,), {"files": {}, "made": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kept)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.hf_api.constants, "HF_HUB_OFFLINE", False)
    yield kept
    server.shutdown()
    server.server_close()


def test_an_export_goes_to_the_hub(tiny_model_dir, tmp_path, hub) -> None:
    """Every file but the report, byte by byte."""
    report = run_export(tiny_model_dir, [], tmp_path / "out")
    push(report.folder, "you/mine", ModelConfig(model_name_or_path="m", hf_hub_token="may-write"), private=True)
    assert hub.made[0]["name"] == "mine" and "private" in (*hub.made[0], hub.made[0].get("visibility")), hub.made
    here = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != "export_report.json"}
    assert {name: text for name, text in hub.files.items() if name != ".gitattributes"} == here
    assert b"parity passed" in hub.files["README.md"]


@pytest.mark.parametrize("asked", [["export_hub_model_id=you/mine"], []], ids=["asked", "unasked"])
def test_only_what_is_asked_for_is_sent(tiny_model_dir, tmp_path, hub, asked) -> None:
    told = [f"model_name_or_path={tiny_model_dir}", f"export_dir={tmp_path / 'out'}", "hf_hub_token=may-write"]
    assert cli.main(["export", *told, *asked]) == 0
    assert bool(hub.made) == bool(hub.files) == bool(asked)


def test_a_refusal_leaves_the_folder(tiny_model_dir, tmp_path, hub) -> None:
    """The hint is a line for a shell, which keeps the report here as hone does."""
    (tmp_path / "my out").mkdir()
    (tmp_path / "my out/config.json").write_text("{}")
    with pytest.raises(ExportError, match=r"is complete and was not sent to you/mine.*hf_hub_token") as caught:
        push(tmp_path / "my out", "you/mine", ModelConfig(model_name_or_path="m", hf_hub_token="another"), private=None)
    assert f"`hf upload you/mine '{tmp_path / 'my out'}' --exclude export_report.json`" in str(caught.value)


def test_without_a_network_the_report_is_told_and_then_what_was_not_sent(
    tiny_model_dir, tmp_path, hub, monkeypatch, capfd
) -> None:
    """Port 9 of this machine answers nobody."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    told = [f"model_name_or_path={tiny_model_dir}", f"export_dir={tmp_path / 'out'}", "export_hub_model_id=you/mine"]
    assert cli.main(["export", *told]) == 1
    said = capfd.readouterr()
    assert "parity passed" in said.out
    assert "is complete and was not sent to you/mine" in said.err and "Traceback" not in said.err
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_modelscope_is_asked_by_its_package(tmp_path, monkeypatch) -> None:
    said: list = []

    class HubApi:
        def login(self, token: str) -> None:
            said.append(("login", token))

        def repo_exists(self, place: str) -> bool:
            return False

        def create_model(self, place: str, visibility: int) -> None:
            said.append(("create", place, visibility))

        def upload_folder(self, **told: object) -> None:
            said.append(("upload", told["repo_id"], told["folder_path"], told["ignore_patterns"]))

    for name in ("modelscope", "modelscope.hub", "modelscope.hub.api"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["modelscope.hub.api"].HubApi = HubApi
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    push(tmp_path, "you/mine", ModelConfig(model_name_or_path="m", ms_hub_token="t"), private=True)
    assert said == [("login", "t"), ("create", "you/mine", 1), ("upload", "you/mine", str(tmp_path), ["export_report.json"])]


def test_the_card_tells_how_it_was_trained(tiny_run, tmp_path, tiny_model_dir) -> None:
    """A run writes one by itself, and the export of its adapter one with both; the hub's own reader takes their heads."""
    base = tmp_path / "base"
    shutil.copytree(tiny_model_dir, base)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    tiny_run["model_name_or_path"] = str(base)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tiny_run))
    out = Path(tiny_run["output_dir"])
    assert cli.main(["train", str(tmp_path / "run.yaml"), "finetuning_type=lora", "lora_rank=2", "max_steps=2"]) == 0
    run_export(base, [out], tmp_path / "merged")
    for folder, library in ((out, "peft"), (tmp_path / "merged", "transformers")):
        card = ModelCard.load(folder / "README.md", ignore_metadata_errors=False)
        head = card.data.to_dict()
        assert head["library_name"] == library and head["license"] == "apache-2.0" and head["tags"] == ["hone", "sft", "lora"]
        assert head["pipeline_tag"] == "text-generation"
        text = card.text
        assert "supervised fine-tuning, lora, rank 2, alpha 4\n" in text and "train_loss" in text and "2 steps" in text
        assert f"data: {tiny_run['dataset']}" in text
    assert "parity passed" in (tmp_path / "merged/README.md").read_text()
