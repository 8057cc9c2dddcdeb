"""hone api as a user meets it: a file, an address, the openai client, a signal; and models that give vectors or scores."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
import threading

import openai
import pytest
from tests.scoring import write_reward_adapter

from hone.chat.message import Conversation, message
from hone.cli import main
from hone.commands import api
from hone.config import load
from hone.errors import MissingExtra
from hone.inference.embed import build_embedder
from hone.inference.score import build_scorer


@pytest.fixture
def yaml(tmp_path, tiny_model_dir):
    file = tmp_path / "api.yaml"
    file.write_text(f"model_name_or_path: {tiny_model_dir}\ndo_sample: false\nmax_new_tokens: 6\n")
    return file


def test_it_answers_what_chat_answers_until_it_is_told_to_stop(yaml, monkeypatch, capsys):
    assert main(["chat", str(yaml), "--ask", "Hi"]) == 0
    said = capsys.readouterr().out
    told = []

    def ask(url):
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            told.append(client.chat.completions.create(model="mine", messages=[{"role": "user", "content": "Hi"}]))
        os.kill(os.getpid(), signal.SIGINT)

    def serve(app, listening, **options):
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        threading.Thread(target=ask, args=(url,)).start()
        original(app, listening, **options)

    original, open_socket = api.serve, api.open_socket
    monkeypatch.setattr(api, "serve", serve)
    monkeypatch.setattr(api, "open_socket", lambda host, port, *, key: open_socket(host, 0, key=key))
    monkeypatch.setenv("API_MODEL_NAME", "mine")
    assert main(["api", str(yaml), "api_max_waiting=3", f"api_media_folder={yaml.parent}"]) in (0, 130)
    answer = told[0].choices[0]
    assert (answer.message.content, answer.finish_reason) == (said.rstrip("\n"), "length")
    told = capsys.readouterr().err
    assert "serving mine on http://127.0.0.1:" in told and "api_media_folder has nothing to do here" in told


@pytest.mark.parametrize(
    ("change", "variables", "said"),
    [
        ({}, {"API_HOST": "0.0.0.0"}, "API_KEY"),
        ({}, {"API_PORT": "eighty"}, 'saw "eighty"'),
        ({"num_beams": 4}, {}, "num_beams"),
        ({"api_timeout": 0}, {}, "api_timeout"),
        ({}, {"SAFE_MEDIA_PATH": "/none/such"}, "is no folder"),
        ({}, {"ALLOW_LOCAL_FILES": "1"}, "api_media_folder"),
    ],
)
def test_what_cannot_be_served_is_told_before_a_model_is_loaded(change, variables, said, yaml, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["api", str(yaml), *(f"{key}={value}" for key, value in change.items())]) == 2
    told = capsys.readouterr().err
    assert said in told and "loaded" not in told


def test_a_reward_model_gives_scores(tiny_model_dir, tmp_path, tiny_tokenizer):
    """The score of a text that spells the format is the score of the conversation, and a limit cuts tokens."""
    adapter = write_reward_adapter(tiny_model_dir, tmp_path / "reward")
    words = [f"model_name_or_path={tiny_model_dir}", f"adapter_name_or_path={adapter}", "stage=rm"]
    run = load(words, "api")
    served = api.load_served(run, "judge")
    assert served.engine is None and served.embed is None
    talk = Conversation((message("user", "Hi"), message("assistant", "Hello.")))
    scorer = build_scorer(run.model, run.chat, run.adapter)
    ids = scorer.codec.encode([talk])[0].ids
    text = tiny_tokenizer.decode(ids, skip_special_tokens=False)
    scores = served.score([text, text], None)
    # The same ids in a batch of two: other sums in fp32.
    assert scores == pytest.approx(scorer.score([talk]) * 2, abs=1e-5)
    short = tiny_tokenizer.decode(ids[:5], skip_special_tokens=False)
    assert served.score([text], 5) == pytest.approx(served.score([short], None), abs=1e-6)
    assert abs(served.score([text], 5)[0] - scores[0]) > 1e-3


def test_an_embedding_model_gives_vectors(tiny_model_dir, tmp_path):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "embedding")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
    (folder / "modules.json").write_text("[]")
    run = load([f"model_name_or_path={folder}"], "api")
    served = api.load_served(run, "vectors")
    embedder = build_embedder(run.model, run.adapter)
    vectors = served.embed(["Hi", "What is it?"], False)
    assert vectors.rows == embedder.embed(["Hi", "What is it?"]).tolist() and served.engine is None
    assert vectors.num_tokens == sum(map(len, embedder.codec.encode_plain(["Hi", "What is it?"])))


@pytest.mark.parametrize(("package", "module"), [("uvicorn", "hone.serving.web"), ("fastapi", "hone.serving.web")])
def test_a_package_that_is_missing_is_named_with_its_extra(package, module, monkeypatch):
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf'hone api needs the package {package}: pip install "hone-llm\[serve\]"'):
        importlib.import_module(module)
