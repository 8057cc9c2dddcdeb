"""Who is let in, what is refused, who waits, and what becomes of a client that leaves."""

from __future__ import annotations

import json
import socket
import threading
import time

import openai
import pytest

from hone.config.environment import read_api_environment
from hone.errors import ConfigError, EngineError, HoneError, ModelError
from hone.serving.access import is_loopback
from hone.serving.desk import Served, Vectors
from hone.serving.server import open_socket
from tests.serving.servers import NAME, Scripted, live, until

BODY = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}]}
KEY = "a-key-of-some-length"


def post(server, body=None, path="/v1/chat/completions", **options):
    return server.http.post(path, **({"json": body} if body is not None else {}), **options)


def load(server, name, path):
    return post(server, {"lora_name": name, "lora_path": str(path)}, "/v1/load_lora_adapter")


def test_adapters_come_and_go_by_name(codec, tmp_path):
    home = tmp_path / "saves"
    for name in ("law", "poems"):
        (home / name).mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (home / "out").symlink_to(tmp_path / "elsewhere")
    speaker = Scripted(codec)
    with live(Served(NAME, engine=speaker), api_adapter_folder=str(home)) as server:
        assert load(server, "law", home / "law").json()["parent"] == NAME
        assert [one.id for one in server.client.models.list()] == [NAME, "law"]
        said = server.client.chat.completions.create(model="law", messages=BODY["messages"])
        assert said.model == "law" and speaker.asked[-1].adapter == "law"
        server.client.completions.create(model=NAME, prompt="Hi")
        assert speaker.asked[-1].adapter == ""
        for path in (tmp_path / "elsewhere", home / ".." / "elsewhere", home / "out", home / "none", "/etc"):
            assert (load(server, "new", path).status_code, speaker.adapters) == (403, ("law",))
        assert load(server, NAME, home / "poems").status_code == 400
        assert "wanted 1 to 200 characters without a comma" in error_of(load(server, "a=b", home / "poems"))["message"]
        assert post(server, {"lora_name": "poems"}, "/v1/unload_lora_adapter").status_code == 404
        assert post(server, {"lora_name": "law"}, "/v1/unload_lora_adapter").json()["deleted"] is True
        error = error_of(post(server, BODY | {"model": "law"}))
        assert error["code"] == "model_not_found" and NAME in error["message"]


def test_a_body_that_is_no_json_is_told_by_its_place(told):
    answer = post(told, content='{"model": "tiny",', headers={"Content-Type": "application/json"})
    error = error_of(answer)
    assert answer.status_code == 400 and error["param"] is None and "no JSON" in error["message"] and "17" in error["message"]


@pytest.mark.parametrize(("fault", "status"), [(EngineError("it is gone"), 503), (ModelError("too long"), 400)])
def test_a_fault_of_the_engines_server_is_not_the_askers(fault, status, codec):
    speaker = Scripted(codec)
    speaker.generate = lambda request: (_ for _ in ()).throw(fault)
    with live(Served(NAME, engine=speaker)) as server:
        answer = post(server, BODY)
        assert answer.status_code == status and error_of(answer)["message"] == str(fault)
        assert ("Retry-After" in answer.headers) == (status == 503)


def test_without_a_folder_no_adapter_is_taken_in(told, speaker, tmp_path):
    assert load(told, "law", tmp_path).status_code == 403
    assert post(told, {"lora_name": "law"}, "/v1/unload_lora_adapter").status_code == 403
    assert speaker.adapters == ()


def error_of(answer):
    """The error of an answer, which has OpenAI's shape."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize(
    ("change", "param", "said"),
    [
        ({"temprature": 1}, "temprature", 'did you mean "temperature"'),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"n": 17}, "n", "17 answers"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"stop": [""]}, "stop", "at least 1 character"),
        ({"stop": ["x"] * 17}, "stop", "17 stop texts"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "owner", "content": "x"}]}, "messages[0].role", "'system'"),
        ({"messages": [{"role": "user", "content": "x", "weight": 1}]}, "messages[0].weight", "no such field"),
        ({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, "messages[0].name", "who speaks"),
        ({"messages": [{"role": "user"}]}, None, "content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, None, "half a character"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
         "messages[0].content[0]", "model takes text, and no image"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content", "and no file"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": "x"}]}]},
         "messages[0].content[1].image_url", "valid dictionary"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "valid string"),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs: true"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "without stream"),
        ({"max_tokens": 9000}, "max_tokens", "api_max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, "max_tokens", "old word"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"logit_bias": {"hello": 1}}, "logit_bias.hello", "wanted a token's id, in digits"),
        ({"store": True}, "store", "False"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "no such field"),
        ({"temperature": 1, "do_sample": False}, "do_sample", "temperature 0"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "go together"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(told, change, param, said):
    answer = post(told, content=json.dumps(BODY | change), headers={"Content-Type": "application/json"})
    error = error_of(answer)
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert said in error["message"] and (error["param"] or "").startswith(param or "")


def test_another_model_another_path_another_way(told):
    with pytest.raises(openai.NotFoundError, match="serves tiny"):
        told.client.chat.completions.create(model="gpt-4", messages=BODY["messages"])
    assert [model.id for model in told.client.models.list()] == [NAME] and told.client.models.retrieve(NAME).id == NAME
    assert error_of(told.http.get("/v1/nothing"))["type"] == "not_found_error"
    assert error_of(told.http.get("/v1/completions"))["message"] == "Method Not Allowed"
    for content in (b"{", b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}", b"\xff\xfe", b'{"temperature": NaN, "messages": []}'):
        answer = post(told, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and error_of(answer)
    assert post(told, content=json.dumps(BODY), headers={"Content-Type": "text/plain"}).status_code == 400, (
        "as a web page can send"
    )


@pytest.mark.parametrize(
    ("served", "path", "body", "gives"),
    [
        (Served(NAME, embed=lambda *_: Vectors([[0.0]], 1)), "/v1/chat/completions", BODY, "vectors and no answers"),
        (Served(NAME, score=lambda *_: [0.0]), "/v1/completions", {"prompt": "x"}, "scores and no answers"),
        (Served(NAME, score=lambda *_: [0.0]), "/v1/embeddings", {"input": "x"}, "scores and no vectors"),
        (
            Served(NAME, embed=lambda *_: Vectors([[0.0]], 1)),
            "/v1/score/evaluation",
            {"messages": ["x"]},
            "vectors and no scores",
        ),
    ],
)
def test_what_a_model_cannot_do_is_405(served, path, body, gives):
    with live(served) as server:
        answer = post(server, body, path)
        assert answer.status_code == 405 and gives in error_of(answer)["message"]


def test_vectors_and_scores():
    texts = []

    def embed(given, query):
        texts.append((tuple(given), query))
        return Vectors([[0.25 * len(text), -1.0] for text in given], 5)

    with live(Served(NAME, embed=embed)) as server:
        for form in ({}, {"encoding_format": "float"}):  # the client asks for base64 by itself
            answer = server.client.embeddings.create(model=NAME, input=["a", "abc"], **form)
            assert [one.embedding for one in answer.data] == [[0.25, -1.0], [0.75, -1.0]] and answer.usage.total_tokens == 5
        server.client.embeddings.create(model=NAME, input="a", extra_body={"is_query": True})
        assert texts[-1] == (("a",), True)
        assert post(server, {"input": []}, "/v1/embeddings").status_code == 400
    with live(Served(NAME, score=lambda texts, limit: [len(text[:limit]) for text in texts])) as server:
        body = {"model": "model", "messages": ["one", "three"], "max_length": 4}  # as LLaMA-Factory's PPO asks
        answer = post(server, body, "/v1/score/evaluation").json()
        assert (answer["scores"], answer["object"], answer["model"]) == ([3, 4], "score.evaluation", NAME)


def test_a_key_is_wanted_where_there_is_one(codec):
    with live(Served(NAME, engine=Scripted(codec)), key=KEY) as server:
        assert server.client.chat.completions.create(**BODY).choices[0].message.content == "Hello there."
        wrong = ["", "Bearer", "Bearer x", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY, "Bearer \u00e9".encode()]
        for path in ("/v1/models", "/metrics", "/v1/nothing"):
            for given in wrong:
                answer = server.http.get(path, headers={"Authorization": given})
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
                assert error_of(answer)["code"] == "invalid_api_key"
        for path in ("/health", "/docs", "/openapi.json"):
            assert server.http.get(path, headers={"Authorization": ""}).status_code == 200
        assert server.http.get("/v1/models", headers={"Host": "model.example.org"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("127.9.9.9:80", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ],
)
def test_without_a_key_only_this_machine_is_meant(told, host, status):
    """A page of evil.example whose name is turned to 127.0.0.1 says that name."""
    assert told.http.get("/v1/models", headers={"Host": host}).status_code == status


def test_other_pages_are_let_in_only_where_told(told, codec):
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in told.http.get("/health", headers=asked).headers
    with live(Served(NAME, engine=Scripted(codec)), api_cors_origins=("https://a.example",)) as server:
        answer = server.http.options("/v1/chat/completions", headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-credentials" not in answer.headers
        other = server.http.get("/health", headers=asked | {"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


def test_an_open_address_wants_a_key():
    for host in ("0.0.0.0", "::", "192.0.2.7"):
        for key in ("", "short"):
            with pytest.raises(HoneError, match="API_KEY"):
                open_socket(host, 0, key=key)
    open_socket("0.0.0.0", 0, key=KEY).close()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(HoneError, match="cannot be served"):
        open_socket("127.0.0.1", taken.getsockname()[1], key="")
    assert is_loopback("127.1.2.3") and is_loopback("::1") and not is_loopback("10.0.0.1") and not is_loopback("example.org")


def test_the_environment():
    read = read_api_environment({})
    assert (read.host, read.port, read.key, read.name, read.num_running) == ("127.0.0.1", 8000, "", "gpt-3.5-turbo", 8)
    read = read_api_environment(
        {"API_HOST": "::1", "API_PORT": "9", "API_KEY": " k ", "MAX_CONCURRENT": "3", "FASTAPI_ROOT_PATH": "/llm/"}
    )
    assert (read.host, read.port, read.key, read.num_running, read.root_path) == ("::1", 9, "k", 3, "/llm")
    wrong = {"API_PORT": "x", "MAX_CONCURRENT": "0", "API_KEY": "\u00e9"}
    with pytest.raises(ConfigError) as found:
        read_api_environment(wrong)
    assert {mistake.key for mistake in found.value.mistakes} == set(wrong)


def test_large_bodies_and_long_talks(codec):
    with live(Served(NAME, engine=Scripted(codec)), api_max_body=0.002, api_max_messages=2) as server:
        long = {"messages": [{"role": "user", "content": "x" * 3000}]}
        answer = post(server, long)
        assert answer.status_code == 413 and "api_max_body" in error_of(answer)["message"]
        chunked = server.http.post(
            "/v1/chat/completions", content=iter([b" " * 1500] * 3), headers={"Content-Type": "application/json"}
        )
        assert chunked.status_code == 413 and "api_max_body" in error_of(chunked)["message"], "its length is not told"
        assert "3 messages" in error_of(post(server, BODY | {"messages": BODY["messages"] * 3}))["message"]
        assert post(server, BODY).status_code == 200


class Held:
    """A Scripted.pause that lets tokens through when told."""

    def __init__(self):
        self.open = threading.Event()
        self.num = 0

    def __call__(self):
        self.num += 1
        assert self.open.wait(20)


@pytest.fixture
def held(speaker):
    speaker.script, speaker.pause, speaker.num_left = "one two three four", Held(), 0
    yield speaker.pause
    speaker.pause.open.set()
    speaker.pause = lambda: None


def test_who_finds_the_line_full_is_sent_away(told, held):
    """One is answered, one waits, the third is told when to come again; the first two get their answers."""
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(post(told, BODY))) for _ in range(2)]
    threads[0].start()
    until(lambda: held.num == 1)
    threads[1].start()
    until(lambda: "hone_requests_waiting 1" in told.http.get("/metrics").text)
    third = post(told, BODY)
    assert third.status_code == 429 and int(third.headers["retry-after"]) >= 1 and error_of(third)["code"] == "queue_full"
    with pytest.raises(openai.RateLimitError):
        told.client.chat.completions.create(**BODY)
    held.open.set()
    for thread in threads:
        thread.join()
    assert [answer.json()["choices"][0]["message"]["content"] for answer in answers] == ["one two three four"] * 2
    assert "hone_requests_running 0" in told.http.get("/metrics").text


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_model(told, speaker, held, stream):
    body = json.dumps(BODY | {"stream": stream}).encode()
    host, port = told.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        line.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{kind}".encode() + body)
        until(lambda: held.num == 1)
    time.sleep(0.1)
    held.open.set()
    until(lambda: speaker.num_left == 1)
    assert speaker.num_drawn and held.num <= 2, "it is stopped at its next token"
    assert post(told, BODY).status_code == 200, "and the next one has its turn"


def test_one_that_leaves_the_line_frees_its_place(told, speaker, held):
    first = threading.Thread(target=post, args=(told, BODY))
    first.start()
    until(lambda: held.num == 1)
    with pytest.raises(openai.APITimeoutError):
        told.client.with_options(timeout=0.3).chat.completions.create(**BODY)
    until(lambda: "hone_requests_waiting 0" in told.http.get("/metrics").text)
    held.open.set()
    first.join()
    until(lambda: "hone_requests_running 0" in told.http.get("/metrics").text)


def test_time_is_limited(codec):
    pause = Held()
    speaker = Scripted(codec, pause=pause)
    with live(Served(NAME, engine=speaker), api_timeout=0.3) as server:
        answer = post(server, BODY)
        assert answer.status_code == 504 and "0.3 seconds" in error_of(answer)["message"]
        answer = post(server, BODY)  # the model has not come to its next token: the turn is not free yet
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        pause.open.set()
        until(lambda: speaker.num_left == 1)
        speaker.pause = lambda: time.sleep(0.1)
        with pytest.raises(openai.APIError, match="took more than"):
            list(server.client.chat.completions.create(**BODY, stream=True))
        until(lambda: speaker.num_left == 2)


def test_what_has_begun_is_finished_before_the_server_ends(codec):
    pause, said = Held(), []
    with live(Served(NAME, engine=Scripted(codec, pause=pause))) as server:
        talk = threading.Thread(target=lambda: said.append(post(server, BODY).json()))
        talk.start()
        until(lambda: pause.num == 1)
        threading.Timer(0.3, pause.open.set).start()  # after the server was told to stop
    talk.join()
    assert said[0]["choices"][0]["message"]["content"] == "Hello there."


def test_faults_of_the_server_are_500_and_tell_nothing_of_it(codec, capfd):
    def broken():
        raise RuntimeError("secret place")

    speaker = Scripted(codec, pause=broken)
    with live(Served(NAME, engine=speaker)) as server:
        answer = post(server, BODY)
        assert answer.status_code == 500 and "secret" not in answer.text and error_of(answer)["type"] == "server_error"
        num = iter(range(9))
        speaker.pause = lambda: broken() if next(num) == 2 else None
        with pytest.raises(openai.APIError, match="the server failed"):
            list(server.client.chat.completions.create(**BODY, stream=True))
        speaker.pause = lambda: None
        assert post(server, BODY).status_code == 200
    assert "secret place" in capfd.readouterr().err


def test_counts(codec):
    with live(Served(NAME, engine=Scripted(codec))) as server:
        usage = [post(server, BODY).json()["usage"] for _ in range(2)].pop()
        post(server, {})
        lines = server.http.get("/metrics").text.splitlines()
        assert 'hone_requests_total{path="/v1/chat/completions",status="200"} 2' in lines
        assert 'hone_requests_total{path="/v1/chat/completions",status="400"} 1' in lines
        assert f"hone_answer_tokens_total {2 * usage['completion_tokens']}" in lines
        assert f"hone_prompt_tokens_total {2 * usage['prompt_tokens']}" in lines
        assert "hone_first_token_seconds_count 2" in lines and "# TYPE hone_requests_waiting gauge" in lines
        names = {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}
        assert names == {line.split(" ")[2] for line in lines if line.startswith("# TYPE")}
