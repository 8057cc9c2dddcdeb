"""hone chat on a tiny model: questions of the command line and of a pipe, adapters, a terminal that is interrupted."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from hone.cli import main
from hone.commands.chat import split_questions
from hone.errors import HoneError


@pytest.fixture
def yaml(tmp_path, tiny_model_dir):
    file = tmp_path / "chat.yaml"
    file.write_text(f"model_name_or_path: {tiny_model_dir}\ndo_sample: false\nmax_new_tokens: 12\n")
    return file


def test_questions_are_taken_out_of_the_arguments() -> None:
    questions = [("--ask", "--why?"), ("--image", "a=b.png"), ("--ask", "b")]
    assert split_questions(["x.yaml", "--ask", "--why?", "a=1", "--image=a=b.png", "--ask=b"]) == (questions, ["x.yaml", "a=1"])
    for wrong in (["--image"], ["--ask", "a", "--image", "b.png"]):
        with pytest.raises(HoneError, match="--image"):
            split_questions(wrong)


@pytest.mark.parametrize("verb", ["chat", "api", "export"])
def test_all_names_that_nothing_has_are_told_before_a_model_is_loaded(verb, yaml, tmp_path, capsys) -> None:
    names = ["template=qwn", "adapter_name_or_path=./nowhere"]
    more = {"chat": [], "api": ["api_adapters=a=./gone"], "export": [f"export_dir={tmp_path / 'out'}", "do_sample=true"]}[verb]
    assert main([verb, str(yaml), *names, *more]) == 2
    told = capsys.readouterr().err
    assert 'unknown template "qwn" (did you mean "qwen"?)' in told and "./nowhere does not exist" in told
    assert ("./gone does not exist" in told) == (verb == "api") and "loaded" not in told


def test_one_shot_prints_the_answer_alone(yaml, capsys) -> None:
    assert main(["chat", str(yaml), "--ask", "Hi"]) == 0
    alone = capsys.readouterr()
    assert alone.out.endswith("\n") and len(alone.out) > 5 and "loaded" in alone.err
    assert main(["chat", str(yaml), "--ask", "Hi", "--ask", "Hi"]) == 0
    both = capsys.readouterr().out
    assert both.startswith(alone.out) and both != 2 * alone.out


def test_a_pipe_and_settings_of_the_command_line(yaml, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
    assert main(["chat", str(yaml), "max_new_tokens=3"]) == 0
    few = capsys.readouterr()
    assert "cut off after 3 tokens" in few.err
    assert main(["chat", str(yaml), "--ask", "Hi"]) == 0
    assert capsys.readouterr().out.startswith(few.out.rstrip("\n\ufffd"))


def test_missing_question_and_too_long_question(yaml, capsys) -> None:
    assert main(["chat", str(yaml), "--ask"]) == 2
    assert "--ask needs the question" in capsys.readouterr().err
    assert main(["chat", str(yaml), "--ask", "word " * 600]) == 2
    assert "the model can hold 512" in capsys.readouterr().err


def test_ctrl_c_at_a_terminal_stops_the_answer_but_not_the_chat(yaml) -> None:
    """A real terminal and a real SIGINT; the endless answer comes from a length the model's limit allows."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "hone", "chat", str(yaml), "max_new_tokens=480", "repetition_penalty=1.3"]
    child = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background hands on that it is ignored
    )  # fmt: skip
    os.close(slave)
    shown = ""

    def wait_for(text: str, seconds: float = 60) -> None:
        nonlocal shown
        start, end = len(shown), time.monotonic() + seconds
        while text not in shown[max(0, start - len(text)) :]:
            ready, _, _ = select.select([master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {text!r} in {shown!r}"
            shown += os.read(master, 4096).decode(errors="replace")

    try:
        wait_for("User: ")
        os.write(master, b"Hi\n")
        wait_for("Hi\r\n")
        shown += os.read(master, 10).decode(errors="replace")
        child.send_signal(2)
        wait_for("(stopped)")
        wait_for("User: ")
        os.write(master, b"\x04")
        assert child.wait(30) == 0
    finally:
        child.kill()
        os.close(master)
