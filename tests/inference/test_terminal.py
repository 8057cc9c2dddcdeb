"""The conversation in the terminal, with an engine that answers from a list."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from hone.chat.message import Image, Message, Text, message
from hone.config.generate import GenerateConfig
from hone.errors import HoneError, ModelError
from hone.inference.base import Answer, Delta, Request
from hone.inference.terminal import Talk, converse


class Listed:
    """Answers "one", "two" ... and keeps what it was asked; `fault` is raised after the first words."""

    finish = "stop"
    media = frozenset({"image"})

    def __init__(self, fault: BaseException | None = None):
        self.requests: list[Request] = []
        self.fault = fault

    def generate(self, request: Request) -> Iterator[Delta]:
        self.requests.append(request)
        text = f"answer {len(self.requests)}"
        yield Delta(text[:3])
        if self.fault:
            raise self.fault
        yield Delta(text[3:])
        yield Delta("", Answer(message("assistant", text), self.finish, 5, 2))

    def generate_many(self, requests):
        return []


@pytest.fixture
def talk() -> Talk:
    return Talk(Listed(), GenerateConfig())


def said(talk: Talk) -> list[tuple[str, str]]:
    return [(one.role, one.text) for one in talk.engine.requests[-1].conversation.messages]


def test_history_is_sent_and_only_answers_reach_standard_output(talk, capsys) -> None:
    assert talk.take("Hi") and talk.take("And?")
    assert said(talk) == [("user", "Hi"), ("assistant", "answer 1"), ("user", "And?")]
    assert capsys.readouterr().out == "answer 1\nanswer 2\n"


def test_a_file_goes_with_the_next_question_and_with_no_other(talk, tmp_path) -> None:
    file = tmp_path / "a cat.png"
    file.write_bytes(b"bytes")
    assert talk.take(f"/image '{file}'") and talk.take("What is it?") and talk.take("Really?")
    asked = talk.engine.requests[-1].conversation
    assert asked.messages[0].parts == (Image(file), Text("What is it?")) and asked.media == (Image(file),)
    talk.take(f"/save {tmp_path / 'talk.json'}")
    saved = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert saved[0]["content"][0] == {"type": "image_url", "image_url": {"url": str(file)}}
    for line, told in ((f"/audio {file}", "takes text and image, and no audio"), ("/image none.png", "no such file")):
        with pytest.raises(HoneError, match=told):
            talk.take(line)
    talk.take(f"/image {file}")
    talk.engine.fault = ModelError("too long")
    with pytest.raises(ModelError):
        talk.take("Look")
    assert talk.attached == [Image(file)], "it waits for a question that is answered"
    talk.take("/image")
    assert not talk.attached


def test_a_call_that_cannot_be_read_is_told(talk, capsys) -> None:
    broken = Message("assistant", (Text("<tool_call>oops", malformed=True),))
    talk.engine.generate = lambda request: iter([Delta("<tool_call>oops", Answer(broken, "stop", 5, 2))])
    talk.take("Hi")
    printed = capsys.readouterr()
    assert printed.out == "<tool_call>oops\n" and "cannot be read" in printed.err


@pytest.mark.parametrize("word", ["clear", "/clear"])
def test_clear_forgets(talk, word) -> None:
    talk.take("Hi")
    talk.take(word)
    talk.take("And?")
    assert said(talk) == [("user", "And?")]


@pytest.mark.parametrize("word", ["exit", "/exit", " exit "])
def test_exit_leaves(talk, word) -> None:
    assert not talk.take(word)
    assert talk.take("exit the building, how?") and said(talk)[-1][1] == "exit the building, how?"


def test_system_prompt_starts_anew_and_can_be_taken_back(talk) -> None:
    talk.take("Hi")
    talk.take("/system Be brief.")
    talk.take("Hi")
    assert said(talk) == [("system", "Be brief."), ("user", "Hi")]
    talk.take("/system")
    talk.take("Hi")
    assert said(talk) == [("user", "Hi")]


def test_settings_change_and_wrong_ones_do_not(talk, capsys) -> None:
    for line in (
        "/set temperature=0.2",
        "/set do_sample = false",
        "/set seed=7",
        "/set temperature=-1",
        "/set temperatur=1",
        "/set seed=x",
    ):
        assert talk.take(line)
    talk.take("Hi")
    asked = talk.engine.requests[-1]
    assert (asked.settings.temperature, asked.settings.do_sample, asked.seed) == (0.2, False, 7)
    notes = capsys.readouterr().err
    assert "wanted a number above 0" in notes and 'did you mean "temperature"?' in notes and "whole number" in notes
    talk.take("/set seed=none")
    talk.take("/set")
    assert talk.seed is None and "temperature=0.2" in capsys.readouterr().err


def test_save_writes_the_conversation(talk, tmp_path, capsys) -> None:
    talk.take("/system Be brief.")
    talk.take("Hi \u4f60\u597d")
    talk.take(f"/save {tmp_path / 'talk.json'}")
    items = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))["messages"]
    assert [(item["role"], item["content"]) for item in items] == [
        ("system", "Be brief."),
        ("user", "Hi \u4f60\u597d"),
        ("assistant", "answer 1"),
    ]
    talk.take(f"/save {tmp_path / 'no' / 'talk.json'}")
    assert "cannot be written" in capsys.readouterr().err


def test_unknown_command_is_not_sent_and_two_slashes_are(talk, capsys) -> None:
    talk.take("/sytem Be brief.")
    assert not talk.engine.requests and 'did you mean "/system"?' in capsys.readouterr().err
    talk.take("//etc/passwd is what?")
    assert said(talk) == [("user", "/etc/passwd is what?")]
    talk.take("   ")
    assert len(talk.engine.requests) == 1


def test_help_names_every_command(talk, capsys) -> None:
    talk.take("/help")
    shown = capsys.readouterr().err
    assert all(word in shown for word in talk._commands())


def test_ctrl_c_keeps_what_was_said_and_the_conversation(capsys) -> None:
    talk = Talk(Listed(KeyboardInterrupt()), GenerateConfig())
    assert talk.take("Hi")
    talk.engine.fault = None
    talk.take("And?")
    assert said(talk) == [("user", "Hi"), ("assistant", "ans"), ("user", "And?")]
    shown = capsys.readouterr()
    assert shown.out == "ans\nanswer 2\n" and "(stopped)" in shown.err


@pytest.mark.parametrize(
    ("finish", "settings", "words"),
    [
        ("length", {}, "(cut off after 2 tokens; a larger max_new_tokens allows more)"),
        ("length", {"max_new_tokens": 0, "max_length": 7}, "(cut off after 2 tokens; a larger max_length allows more)"),
        ("context", {}, "the 7 tokens that the model can hold: /clear starts a new one"),
        ("stop", {}, ""),
    ],
)
def test_an_answer_that_is_cut_off_says_what_allows_more(finish, settings, words, talk, capsys) -> None:
    talk.engine.finish, talk.settings = finish, GenerateConfig(**settings)
    talk.take("Hi")
    shown = capsys.readouterr().err
    assert words in shown if words else not shown
    assert ("allows more" in shown) == (finish == "length")


def test_a_question_that_fails_is_forgotten() -> None:
    talk = Talk(Listed(ModelError("too long")), GenerateConfig())
    with pytest.raises(ModelError):
        talk.take("Hi")
    assert talk.messages == []


def test_a_pipe_is_one_question_a_line(talk, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\nclear\nAgain\nexit\nnever\n"))
    converse(talk)
    assert capsys.readouterr().out == "answer 1\nanswer 2\n"
    assert said(talk) == [("user", "Again")]


def test_a_terminal_shows_errors_and_goes_on(talk, monkeypatch, capsys) -> None:
    lines = iter(["Hi", KeyboardInterrupt(), "Again", EOFError()])
    faults = iter([ModelError("too long"), None])

    def line(*_):
        item = next(lines)
        if isinstance(item, BaseException):
            raise item
        talk.engine.fault = next(faults)
        return item

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", line)
    converse(talk)
    shown = capsys.readouterr()
    assert "error: too long" in shown.err and "Ctrl-D leaves" in shown.err
    assert shown.out.endswith("answer 2\n")
