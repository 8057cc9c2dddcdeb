"""Holes that other servers of models had, tried on this one: each test does what the attack does, and then what is allowed.

LLaMA-Factory CVE-2025-53002 (a value head is unpickled), its reads of files and networks through image_url, and the way around
their check by redirects and names that are turned (issue 10646); templates within a model's files that run as programs.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import pickle
import shutil
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image as Pictures

import hone
from hone.chat.codec import build_codec
from hone.chat.message import Audio, Image, Text
from hone.commands import api
from hone.config import load
from hone.config.chat import ChatConfig
from hone.config.environment import read_api_environment
from hone.config.model import ModelConfig
from hone.errors import ConfigError, HoneError
from hone.models.tokenizer import load_tokenizer
from hone.serving import fetch
from hone.serving.desk import Served
from hone.serving.sniff import form_of
from tests.chat.conftest import said
from tests.serving.servers import NAME, Scripted, live
from tests.serving.test_fetch import answering, says

WAV = (
    b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00" + bytes.fromhex("401f0000803e00000200100064617461") + bytes(4)
)


def png(width=4, height=3, form="PNG") -> bytes:
    file = io.BytesIO()
    Pictures.new("RGB", (width, height), (200, 30, 60)).save(file, form)
    return file.getvalue()


def data_url(data: bytes, kind="image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def ask(server, *parts, role="user"):
    body = {"model": NAME, "messages": [{"role": role, "content": list(parts)}]}
    return server.http.post("/v1/chat/completions", json=body)


def picture(url):
    return {"type": "image_url", "image_url": {"url": url}}


def refused(server, *parts, status=400):
    """The refusal's code and sentence."""
    answer = ask(server, *parts)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    return f"[{error['code']}] {error['message']}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of pictures, beside which lie a secret and links to it."""
    around = tmp_path_factory.mktemp("around")
    (around / "secret.png").write_bytes(png())
    home = around / "media"
    (home / "sub").mkdir(parents=True)
    (home / "sub" / "a b.png").write_bytes(png())
    (home / "link.png").symlink_to(around / "secret.png")
    (home / "out").symlink_to(around)
    (home / "round.png").symlink_to(home / "round.png")
    (home / "inner.png").symlink_to(home / "sub" / "a b.png")
    os.mkfifo(home / "pipe.png")
    return home


@pytest.fixture(scope="module")
def seeing(codec):
    """An engine that takes pictures and sounds."""
    return Scripted(codec, media=frozenset({"image", "audio"}))


@pytest.fixture(scope="module")
def looks(seeing, folder):
    limits = {"api_media_folder": str(folder), "api_media_urls": "http", "api_max_media": 3, "api_max_media_size": 0.01}
    with live(Served(NAME, engine=seeing), api_max_pixels=1000, **limits) as server:
        yield server


def test_what_is_allowed_reaches_the_model_in_its_place(looks, seeing):
    sound = {"type": "input_audio", "input_audio": {"data": base64.b64encode(WAV).decode(), "format": "wav"}}
    words = [{"type": "text", "text": word} for word in ("one", "two", "three")]
    answer = ask(looks, words[0], words[1], picture(data_url(png(), "text/html")), words[2], sound)
    assert answer.status_code == 200, answer.text
    (message,) = seeing.asked[-1].conversation.messages
    assert message.parts == (Text("onetwo"), Image(png()), Text("three"), Audio(WAV))
    page = looks.http.get("/metrics").text
    assert 'hone_media_read_total{kind="image"}' in page and 'hone_media_read_total{kind="audio"}' in page


INNER = """127.0.0.1 localhost 127.1 2130706433 0x7f000001 0177.0.0.1 0 0.0.0.0 [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1]
[64:ff9b::7f00:1] [2002:7f00:1::] 169.254.169.254 10.0.0.1 192.168.0.1 100.64.0.1 [fd00:ec2::254] [fe80::1] 224.0.0.1 LOCALHOST.
"""


@pytest.mark.parametrize("host", INNER.split())
def test_no_picture_is_fetched_from_within(host, looks, monkeypatch):
    """A server of this machine listens on the port that is asked for; it hears nothing."""
    with answering(says(png())) as server:
        monkeypatch.setitem(fetch.PORTS, "http", server.server_port)
        told = refused(looks, picture(f"http://{host}/latest/meta-data/"))
        assert "[media_address] messages[0].content[0]:" in told and not server.asked


def test_the_same_server_is_asked_once_its_address_counts_as_public(looks, seeing, monkeypatch):
    """So that the test above holds because of the addresses. Where it redirects to is judged by the same door."""
    open_door = fetch.is_public

    def answer(handler):
        says(status=302, Location="http://[::1]/")(handler) if handler.path == "/turn" else says(png())(handler)

    with answering(answer) as server:
        monkeypatch.setitem(fetch.PORTS, "http", server.server_port)
        monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1" or open_door(address))
        assert ask(looks, picture("http://127.0.0.1/a.png")).status_code == 200
        assert seeing.asked[-1].conversation.media == (Image(png()),)
        assert "[media_address]" in refused(looks, picture("http://127.0.0.1/turn"))
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "file://localhost/etc/passwd",
        "file://other.example/etc/passwd",
        "../secret.png",
        "sub/../../secret.png",
        "file:///%2e%2e/%2e%2e/etc/passwd",
        "link.png",
        "out/secret.png",
        "round.png",
        "pipe.png",
        "sub",
        ".",
        "/dev/zero",
        "/proc/self/environ",
        "none.png",
        "a\x00.png",
        "x" * 5000,
    ],
)
def test_no_file_outside_the_folder_is_opened(path, looks):
    assert "[media_file] messages[0].content[0]: there is no such file" in refused(looks, picture(path))


def test_a_file_within_the_folder_is(looks, seeing, folder):
    within = folder / "sub" / "a b.png"
    for path in ("sub/a b.png", "./sub/../sub/a b.png", str(within), within.as_uri(), "inner.png"):
        assert ask(looks, picture(path)).status_code == 200, path
        assert seeing.asked[-1].conversation.media == (Image(png()),)


def test_by_default_no_file_is_opened_and_nothing_is_fetched_without_tls(codec):
    with live(Served(NAME, engine=Scripted(codec, media=frozenset({"image"})))) as server:
        assert "[media_file]" in refused(server, picture("/etc/passwd")) and "opened" in refused(server, picture("a.png"))
        assert "only https:" in refused(server, picture("http://example.org/a.png"))
        assert ask(server, picture(data_url(png(900, 900)))).status_code == 200


def bomb(width, height):
    """A picture of a few bytes that says it has so many pixels."""

    def chunk(kind, body):
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (bomb(50_000, 50_000), "[media_too_large]"),
        (bomb(1001, 1), "1001 x 1; up to 1000"),
        (png()[:-30], "broken"),
        (png(form="JPEG")[:300], "broken"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no form that is read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "no form that is read"),
        (b"root:x:0:0:root:/root:/bin/bash\n", "no form that is read"),
        (b"", "no form that is read"),
        (WAV, "it is a sound (wav)"),
        (png() + bytes(20_000), "api_max_media_size"),
    ],
)  # fmt: skip
def test_a_file_is_what_its_bytes_say(data, told, looks):
    assert told in refused(looks, picture(data_url(data)))


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (picture("data:image/png,abc"), "base64"),
        (picture("data:image/png;base64,a$b="), "no base64"),
        (picture("data:image/png;base64," + "A" * 14_000), "api_max_media_size"),
        ({"type": "image_url", "image_url": {"url": data_url(png()), "detail": "low"}}, "detail"),
        ({"type": "image_url", "image_url": data_url(png())}, "image_url"),
        ({"type": "input_audio", "input_audio": {"data": base64.b64encode(WAV).decode(), "format": "mp3"}}, "and it is wav"),
        ({"type": "audio_url", "audio_url": {"url": data_url(png())}}, "it is a picture (png)"),
        ({"type": "video_url", "video_url": {"url": data_url(png())}}, "takes text and audio and image, and no video"),
        ({"type": "file", "file": {"file_id": "x"}}, "and no file"),
    ],
)  # fmt: skip
def test_a_part_that_is_none(part, told, looks):
    assert told in refused(looks, {"type": "text", "text": "x"}, part)


def test_how_many_and_whose(looks, seeing, codec):
    assert "one of 4" in refused(looks, *[picture(data_url(png()))] * 4)
    assert ask(looks, *[picture(data_url(png()))] * 3).status_code == 200
    assert "only a user's message" in ask(looks, picture(data_url(png())), role="system").json()["error"]["message"]
    with live(Served(NAME, engine=Scripted(codec))) as blind:
        assert "takes text, and no image" in refused(blind, picture(data_url(png())))
        assert 'hone_media_refused_total{kind="image",reason="media_not_taken"} 1' in blind.http.get("/metrics").text


@pytest.mark.parametrize(
    ("data", "known"),
    [
        (b"ID3\x04" + bytes(9), ("audio", "mp3")),
        (b"\xff\xfb\x90\x00", ("audio", "mp3")),
        (b"\xff\xff\xff\xff", ("audio", "mp3")),
        (b"\xff\xe1\x00\x00", ("", "")),
        (b"fLaC\x00", ("audio", "flac")),
        (b"OggS\x00", ("audio", "ogg")),
        (b"\x00\x00\x00\x18ftypisom", ("video", "mp4")),
        (b"\x00\x00\x00\x18ftypM4A ", ("", "")),
        (b"\x00\x00\x00\x18ftypavif", ("", "")),
        (b"\x1aE\xdf\xa3", ("video", "webm")),
        (b"RIFF\x00\x00\x00\x00AVI ", ("video", "avi")),
        (png(form="WEBP"), ("image", "webp")),
        (png(form="GIF"), ("image", "gif")),
        (png(form="BMP"), ("image", "bmp")),
    ],
)  # fmt: skip
def test_forms_by_their_first_bytes(data, known):
    assert form_of(data) == known


def test_llamafactorys_words_for_the_folder(tmp_path):
    """Its files lie under SAFE_MEDIA_PATH, and ALLOW_LOCAL_FILES=0 closes it."""
    here, other = str(tmp_path), str(tmp_path.parent)

    def found(folder=None, **variables):
        return read_api_environment(variables).media_folder_with(folder)

    assert found() is None and found(here) == here
    assert (
        found(SAFE_MEDIA_PATH=here)
        == found(SAFE_MEDIA_PATH=here, ALLOW_LOCAL_FILES="1")
        == found(here, SAFE_MEDIA_PATH=here)
        == here
    )
    assert found(SAFE_MEDIA_PATH=here, ALLOW_LOCAL_FILES="0") is None
    for folder, variables, told in (
        (None, {"ALLOW_LOCAL_FILES": "1"}, "needs the folder"),
        (here, {"ALLOW_LOCAL_FILES": "0"}, "contradicts"),
        (here, {"SAFE_MEDIA_PATH": other}, "differ"),
        (f"{here}/none", {}, "is no folder"),
    ):
        with pytest.raises(ConfigError, match=told):
            found(folder, **variables)


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path):
        self._mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self._mark,)


def test_no_file_of_a_model_or_adapter_is_unpickled(tiny_model_dir, tmp_path):
    """CVE-2025-53002 and its kin: a program under every name that some library would read by pickle."""
    mark, base = tmp_path / "mark", tmp_path / "base"
    base.mkdir()
    for file in tiny_model_dir.iterdir():
        (base / file.name).symlink_to(file)
    code = pickle.dumps(Payload(mark))
    names = ("value_head", "adapter_model", "pytorch_model", "training_args", "optimizer", "scheduler", "rng_state")
    for name in names:
        for end in ("bin", "pt", "pth"):
            (base / f"{name}.{end}").write_bytes(code)
    (base / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}))
    for words in (
        [f"model_name_or_path={base}", "stage=rm"],
        [f"model_name_or_path={tiny_model_dir}", f"adapter_name_or_path={base}"],
        [f"model_name_or_path={tiny_model_dir}", f"api_adapters=x={base}"],
    ):
        with suppress(HoneError):  # what cannot be read is told; what matters is that it was not run
            api.load_served(load(words, "api"), NAME)
        assert not mark.exists(), words
    pickle.loads(code)
    assert mark.exists(), "and it would have been seen"


RUNNERS = {"eval", "exec", "load", "loads", "load_all", "unsafe_load", "Unpickler", "open"}
"""The last words of the calls that are looked at."""


def test_the_source_has_no_door_for_programs():
    """Nothing unpickles, evaluates, or reads arrays and YAML in the ways that run what they read."""
    wrong, seen = [], 0
    for file in Path(hone.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in RUNNERS:
                seen += 1
                options = {one.arg: ast.unparse(one.value) for one in node.keywords}
                if _runs_what_it_reads(ast.unparse(node.func), options):
                    wrong.append(f"{file.name}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert not wrong and seen > 20


def _runs_what_it_reads(name: str, options: dict[str, str]) -> bool:
    if name in ("torch.load", "torch.jit.load"):
        return options.get("weights_only") != "True"
    if name in ("yaml.load", "yaml.load_all"):
        return "Safe" not in options.get("Loader", "")
    if name == "np.load":
        return options.get("allow_pickle", "False") != "False"
    return name in ("eval", "exec", "yaml.unsafe_load") or name.split(".")[0] in ("pickle", "marshal", "shelve", "dill", "joblib")


PROGRAM = "{{ cycler.__init__.__globals__.os.mkdir('MARK') }}{{ lipsum.__globals__['os'].mkdir('MARK') }}"
PLAIN = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_template_within_a_models_files_is_no_program(file, tiny_tokenizer_dir, tmp_path):
    folder, mark = tmp_path / "model", tmp_path / "mark"
    shutil.copytree(tiny_tokenizer_dir, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    text = PROGRAM.replace("MARK", str(mark)) + PLAIN
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / file).write_text(text if file.endswith(".jinja") else json.dumps(settings | {"chat_template": text}))
    tokenizer = load_tokenizer(ModelConfig(model_name_or_path=str(folder)))
    assert tokenizer.chat_template == text
    with pytest.raises(HoneError):
        build_codec(ChatConfig(), tokenizer).prompt(said("hi"))
    assert not mark.exists()
