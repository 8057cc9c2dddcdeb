"""hone chat: talk with a model in the terminal, ask it one question (`--ask TEXT`), or one a line through a pipe.

Holds no logic: it reads the settings, and only then imports what answers, so that a mistake in them is told at once.
"""

from __future__ import annotations

from hone.config import load
from hone.errors import HoneError
from hone.table import Table

_ASK = "--ask"
_LATER = Table(
    "step",
    {
        "engine": "hone.inference.build:build_engine",
        "talk": "hone.inference.terminal:Talk",
        "converse": "hone.inference.terminal:converse",
    },
)


def main(arguments: list[str]) -> int:
    """`hone chat run.yaml [key=value ...] [--ask TEXT ...]`; questions of several --ask follow each other in one conversation."""
    questions, rest = split_questions(arguments)
    run = load(rest, "chat")
    engine = _LATER.load("engine")(run.model, run.chat, run.adapter, serve=run.serve, length=run.data.cutoff_len)
    talk = _LATER.load("talk")(engine, run.generate)
    for question in questions:
        talk.say(question)
    if not questions:
        _LATER.load("converse")(talk)
    return 0


def split_questions(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The texts after each --ask (or in --ask=TEXT), and the other arguments. Raises: HoneError where a text is missing."""
    questions: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word.startswith(f"{_ASK}="):
            questions.append(word.removeprefix(f"{_ASK}="))
        elif word == _ASK:
            text = next(words, None)
            if text is None:
                raise HoneError(f'{_ASK} needs the question after it: {_ASK} "What is the capital of France?"')
            questions.append(text)
        else:
            rest.append(word)
    return questions, rest
