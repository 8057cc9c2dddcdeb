"""Talk: a conversation in the terminal. Answers go to standard output as they come, everything else to standard error.

Does not know which engine answers, nor where the lines come from.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hone import log
from hone.chat.message import MEDIA, Conversation, Media, Message, Text, message
from hone.chat.openai import message_to_openai
from hone.config.convert import Wrong, convert
from hone.config.generate import GenerateConfig
from hone.config.knobs import knobs
from hone.config.source import Value
from hone.errors import HoneError
from hone.inference.base import Answer, Delta, Engine, Request
from hone.table import nearest

try:
    import readline  # noqa: F401  once imported, input() edits lines and remembers them
except ImportError:  # not on every platform, and only a comfort
    log.once("lines are not editable here: this Python has no readline")

HELP = """  clear, /clear        forget the conversation
  exit, /exit          leave (so does Ctrl-D)
  /system TEXT         another system prompt, and a new conversation; without TEXT the one of the settings
  /set NAME=VALUE      change a generation setting or seed; without NAME=VALUE show them
  /image FILE          show the model a picture with the next question, where it takes any; without FILE put all aside again
                       (/audio FILE, /video FILE: a sound, a film)
  /save FILE           write the conversation as JSON
  /help                show this
  Ctrl-C stops an answer. A line that shall begin with a slash is written with two."""


@dataclass
class Talk:
    """One conversation and how it is answered. `say` asks and prints; `take` also understands commands."""

    engine: Engine
    settings: GenerateConfig
    seed: int | None = None
    system: str = ""
    messages: list[Message] = field(default_factory=list)
    attached: list[Media] = field(default_factory=list)

    def take(self, line: str) -> bool:
        """One line of the user: a command or a question; False where the user wants to leave.

        Raises: HoneError where a question cannot be answered or a file not attached; the conversation then is as before.
        """
        word, _, rest = line.strip().partition(" ")
        if word in ("exit", "/exit", "/quit") and not rest:
            return False
        if word == "clear" and not rest:
            word = "/clear"
        if word.startswith("//") or not word.startswith("/"):
            if word:
                self.say(line.strip().removeprefix("/") if word.startswith("//") else line)
            return True
        command = self._commands().get(word)
        if command is None:
            log.info(
                f"unknown command {word}{nearest(word, list(self._commands()))}; /help lists them, // begins a line with a slash"
            )
        else:
            command(rest.strip())
        return True

    def say(self, text: str) -> None:
        """Ask `text`, with what is attached, and print the answer as it comes; both join the conversation.

        Ctrl-C keeps what was said until then.
        """
        self.messages.append(Message("user", (*self.attached, Text(text))))
        try:
            self.messages.append(self._answer())
        except HoneError:
            self.messages.pop()
            raise
        self.attached.clear()

    def attach(self, kind: str, name: str) -> None:
        """A file that goes with the next question; kind: "image", "audio" or "video". Raises: HoneError where it cannot."""
        takes, file = self.engine.media, Path(name).expanduser().absolute()
        if kind not in takes:
            raise HoneError(f"/{kind} {name}: this model takes {' and '.join(('text', *sorted(takes)))}, and no {kind}")
        if not file.is_file():
            raise HoneError(f"/{kind} {name}: there is no such file")
        self.attached.append(MEDIA[kind](file))
        log.info(f"({file.name} goes with the next question)")

    def _answer(self) -> Message:
        head = (message("system", self.system),) if self.system else ()
        stream = self.engine.generate(Request(Conversation((*head, *self.messages)), self.settings, self.seed))
        said: list[str] = []
        last: Delta | None = None
        try:
            for last in stream:
                said.append(last.text)
                print(last.text, end="", flush=True)
            print(flush=True)
        except KeyboardInterrupt:
            print(flush=True)
            log.info("(stopped)")
            return message("assistant", "".join(said))
        assert last is not None and last.answer is not None, "an engine's last Delta carries the answer"
        if last.answer.finish != "stop":
            log.info(f"(cut off after {last.answer.num_tokens} tokens; {self._more_room(last.answer)})")
        if any(isinstance(part, Text) and part.malformed for part in last.answer.message.parts):
            log.info("(part of the answer is a tool call that cannot be read; it is kept as text)")
        return last.answer.message

    def _more_room(self, answer: Answer) -> str:
        if answer.finish == "length":
            return f"a larger {'max_new_tokens' if self.settings.max_new_tokens else 'max_length'} allows more"
        held = answer.num_prompt + answer.num_tokens
        return f"conversation and answer are the {held} tokens that the model can hold: /clear starts a new one"

    def _commands(self) -> dict[str, Callable[[str], None]]:
        return {
            "/clear": self._clear,
            "/system": self._set_system,
            "/set": self._set,
            "/save": self._save,
            **{f"/{kind}": partial(self._attach, kind) for kind in MEDIA},
            "/help": lambda _: log.info(HELP),
            "/exit": lambda _: log.info("/exit takes nothing after it"),
        }

    def _attach(self, kind: str, name: str) -> None:
        name = name.strip("\"'")  # as terminals write a file that is dropped on them
        if name:
            self.attach(kind, name)
        else:
            self.attached.clear()
            log.info("(nothing goes with the next question)")

    def _clear(self, _: str) -> None:
        self.messages.clear()
        self.attached.clear()
        log.info("(new conversation)")

    def _set_system(self, text: str) -> None:
        self.system = text
        self._clear("")

    def _set(self, text: str) -> None:
        known = {"seed": self.seed, **self.settings.model_dump()}
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            log.info("  ".join(f"{key}={number}" for key, number in known.items()))
        elif name not in known:
            log.info(f"unknown setting {name}{nearest(name, list(known))}; /set alone shows them")
        elif name == "seed":
            self._set_seed(value)
        else:
            try:
                number = convert(knobs()[name], Value(value, value, "/set"))
            except Wrong as fault:
                log.info(f"{name}: {fault}")
            else:
                self.settings = self.settings.model_copy(update={name: number})

    def _set_seed(self, value: str) -> None:
        if value.lower() in ("none", "null"):
            self.seed = None
        elif value.isdecimal():
            self.seed = int(value)
        else:
            log.info(f"seed={value}: a whole number is wanted, or none")

    def _save(self, name: str) -> None:
        if not name:
            log.info("/save needs the name of a file")
            return
        system = [message("system", self.system)] if self.system else []
        items = [item for one in (*system, *self.messages) for item in message_to_openai(one)]
        try:
            Path(name).expanduser().write_text(
                json.dumps({"messages": items}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        except OSError as fault:
            log.info(f"{name} cannot be written: {fault.strerror}")
            return
        log.info(f"(saved {len(items)} messages to {name})")


def converse(talk: Talk) -> None:
    """Read lines from standard input until its end: with a prompt and second chances at a terminal, one question a line else.

    Raises: HoneError where a question of a pipe cannot be answered; at a terminal it is shown and the talk goes on.
    """
    if not sys.stdin.isatty():
        for line in sys.stdin:
            if not talk.take(line.rstrip("\n")):
                return
        return
    log.info("Ask, or write /help. exit or Ctrl-D leaves.")
    while True:
        try:
            if not talk.take(_ask_for_line("User: ")):
                return
        except EOFError:
            log.info("")
            return
        except KeyboardInterrupt:
            log.info("\n(exit or Ctrl-D leaves)")
        except HoneError as fault:
            log.info(f"error: {fault}")


def _ask_for_line(prompt: str) -> str:
    """A line from the terminal; the prompt stays out of standard output where that goes elsewhere."""
    if sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    return input()
