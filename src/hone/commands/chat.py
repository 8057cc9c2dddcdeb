"""hone chat: talk with a model in the terminal, ask it one question (`--image FILE --ask TEXT`), or one a line through a pipe.

Holds no logic: it reads the settings, and only then imports what answers, so that a mistake in them is told at once.
"""

from __future__ import annotations

from hone.config import load
from hone.errors import HoneError
from hone.table import Table

_ASK = "--ask"
_OPTIONS = (_ASK, "--image", "--audio", "--video")
_LATER = Table(
    "step",
    {
        "engine": "hone.inference.build:build_engine",
        "talk": "hone.inference.terminal:Talk",
        "converse": "hone.inference.terminal:converse",
    },
)


def main(arguments: list[str]) -> int:
    """`hone chat run.yaml [key=value ...] [--image FILE] [--ask TEXT ...]`; several --ask follow each other in one conversation.

    A file goes with the next question: of --ask, or else of the terminal or pipe.
    """
    questions, rest = split_questions(arguments)
    run = load(rest, "chat")
    engine = _LATER.load("engine")(run.model, run.chat, run.adapter, serve=run.serve, length=run.data.cutoff_len)
    talk = _LATER.load("talk")(engine, run.generate)
    for option, text in questions:
        if option == _ASK:
            talk.say(text)
        else:
            talk.attach(option.removeprefix("--"), text)
    if all(option != _ASK for option, _ in questions):
        _LATER.load("converse")(talk)
    return 0


def split_questions(arguments: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Each --ask, --image, --audio and --video with the text behind it (or in --ask=TEXT), and the other arguments.

    Raises: HoneError where a text is missing, or a file stands behind the last question.
    """
    questions: list[tuple[str, str]] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, text = word.partition("=")
        if option not in _OPTIONS:
            rest.append(word)
            continue
        following = text if equals else next(words, None)
        if following is None:
            wanted = 'the question after it: --ask "What is the capital of France?"' if option == _ASK else "a file after it"
            raise HoneError(f"{option} needs {wanted}")
        questions.append((option, following))
    if any(option == _ASK for option, _ in questions) and questions[-1][0] != _ASK:
        raise HoneError(f"{questions[-1][0]} goes with the next --ask, and there is none behind it")
    return questions, rest
