"""Template: a conversation to marked text, by a row of formats/table.toml or by the tokenizer's own Jinja template.

Does not know tokens: the codec turns segments into ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from typing import Any, Protocol

from jinja2 import FunctionLoader

from hone.chat.dialects.dialect import Dialect
from hone.chat.dialects.offer import prompt
from hone.chat.dialects.table import find_dialect
from hone.chat.forms import Forms
from hone.chat.marks import Ink, Outline, Rendered, Segment, at, environment, fail, outline, run
from hone.chat.message import Conversation, Message, message
from hone.chat.own import OwnTemplate
from hone.chat.reading import Reading
from hone.chat.table import Row, find, format_text, rows
from hone.chat.tokens import control_names
from hone.chat.view import Thinking, View, Views, split_thoughts
from hone.config.chat import ChatConfig
from hone.errors import TemplateError

_EXTENDS = re.compile(r'extends "([^"]+)"')

_SUCCESSION = Conversation(tuple(message(role, "a") for role in ("user", "assistant", "assistant", "user", "assistant")))
"""Answers before an answer, before a question, and at the end."""


class Template(Protocol):
    """What the codec needs of a template. source: everything its text depends on, for the fingerprint.

    stop: texts of the tokens that end an answer; passage_end: of the one that ends a pretraining text, '' for eos.
    render: prompt=True ends with what the model continues from; rewritten answers are not learned in it. rewritten: indices of
    answers that are not written as they were said, because something follows. reading: how an answer becomes a message.
    asked_to_think: the template with another enable_thinking. media: kinds of pictures, films and sounds it has a place for.
    """

    name: str
    stop: tuple[str, ...]
    passage_end: str
    source: str
    reading: Reading
    media: frozenset[str]

    def render(self, conversation: Conversation, *, prompt: bool = False) -> Rendered: ...
    def rewritten(self, conversation: Conversation) -> frozenset[int]: ...
    def asked_to_think(self, enable: bool) -> Template: ...


@dataclass(frozen=True)
class NamedTemplate:
    """A row of the table with the run's settings. eos, bos: the tokenizer's; vocabulary: its added tokens."""

    row: Row
    dialect: Dialect
    thinking: Thinking
    system: str
    bos: str
    auto_bos: str
    eos: str
    vocabulary: frozenset[str]

    @property
    def name(self) -> str:
        """The row's name."""
        return self.row.name

    def asked_to_think(self, enable: bool) -> NamedTemplate:
        """See Template."""
        return replace(self, thinking=replace(self.thinking, enable=enable))

    @property
    def media(self) -> frozenset[str]:
        """See Template."""
        return frozenset(self.row.media)

    @property
    def passage_end(self) -> str:
        """The row's, where the tokenizer has that token."""
        return self.row.passage_end if self.row.passage_end in self.vocabulary else ""

    @cached_property
    def stop(self) -> tuple[str, ...]:
        """Stop tokens this tokenizer has, and its eos."""
        words = [self.eos if word == "eos" else word for word in self.row.stop]
        known = [word for word in words if word in self.vocabulary]
        return tuple(dict.fromkeys([*known, *([self.eos] if self.eos else [])]))

    @cached_property
    def reading(self) -> Reading:
        """How this row's answers are read."""
        row = self.row
        opens = row.thinking in ("prompt", "question") and self.thinking.enable is not False
        words = ("<think>", "</think>") if row.thinking == "none" else (row.think_open.strip(), row.think_close.strip())
        said = tuple(word for word in (row.say_open, self.dialect.preamble, self.dialect.says) if word)
        return Reading(self.dialect, row.lead or row.after_thought, row.tail, opens, row.thinking == "none", *words, said)

    @cached_property
    def source(self) -> str:
        """Format text, tool prompt, row and settings."""
        own = f"{self.row.format}.jinja"
        texts = (own, *_EXTENDS.findall(format_text(own)), f"tools/{self.dialect.name}.jinja")
        settings = (self.row, self.dialect.name, self.thinking, self.system, self.bos, self.auto_bos, self.eos)
        return "\n".join([*map(format_text, texts), repr(settings)])

    def render(self, conversation: Conversation, *, prompt: bool = False) -> Rendered:
        """Raises TemplateError where the format cannot express the conversation."""
        return self._forms.render(conversation, prompt)

    @cached_property
    def _forms(self) -> Forms:
        return Forms(self._written)

    def _written(self, conversation: Conversation, prompt: bool) -> Rendered:
        ink = Ink(controls=self.vocabulary)
        said = split_thoughts(conversation)
        views, tool_prompt = self._views(said, ink, prompt)
        made = Views(self.row, self.dialect, self.thinking, ink)
        marked = self._marked(tuple(views), tool_prompt, prompt, made.opening(), made.thinks(said, prompt))
        rewritten = {view.index for view in views if view.rewritten}
        spoken = tuple(_learned(one, index in rewritten) for index, one in enumerate(conversation.messages))
        rendered = Rendered(_told(marked, spoken), ink.contents)
        unended = frozenset() if prompt else _unended(rendered, self.stop)
        return Rendered(_without(rendered.outline, unended), ink.contents) if unended else rendered

    @cached_property
    def _marked(self) -> Callable[[tuple[View, ...], str, bool, str, bool], str]:
        """What the format writes; of the texts it sees nothing but their marks, so what it wrote once it need not write again."""

        @lru_cache(maxsize=1024)
        def write(views: tuple[View, ...], tool_prompt: str, prompt: bool, opening: str, thinks: bool) -> str:
            return run(
                self._jinja, self.name, messages=list(views), tool_prompt=tool_prompt, prompt=prompt, opening=opening,
                thinks=thinks, at=at, fail=fail, bos=self.bos, auto_bos=self.auto_bos, eos=self.eos,
                has=self.vocabulary.__contains__,
            )  # fmt: skip

        return write

    def rewritten(self, conversation: Conversation) -> frozenset[int]:
        """Answers that the format writes otherwise once something follows; raises TemplateError as `render` does."""
        found: set[int] = set()
        if self.row.thinking != "none" or (self.row.asks_last and conversation.tools):
            views, _ = self._views(split_thoughts(conversation), Ink(controls=self.vocabulary), False)
            found |= {view.index for view in views if view.rewritten}
        if not self._ends_answers and any(one.role == "assistant" for one in conversation.messages[:-1]):
            found |= _unended(self.render(conversation), self.stop)
        return frozenset(found)

    @cached_property
    def _ends_answers(self) -> bool:
        """Whether every answer ends with a stop token of its own; some formats (GLM-4's) leave the end to what follows."""
        try:
            return not _unended(self.render(_SUCCESSION), self.stop)
        except TemplateError:
            return False

    def _views(self, conversation: Conversation, ink: Ink, asks: bool) -> tuple[list[View], str]:
        try:
            tool_prompt = prompt(self.dialect.name, conversation.tools, ink)
            in_format = self.row.tools_in == "format" and self.dialect.name == self.row.dialect
            views = Views(self.row, self.dialect, self.thinking, ink)
            built = views.build(conversation, self.system, "" if in_format else tool_prompt, asks=asks)
        except TemplateError as error:
            raise TemplateError(f"template {self.name}: {error}") from error
        return built, tool_prompt if in_format else ""

    @cached_property
    def _jinja(self) -> Any:
        return _formats().get_template(f"{self.row.format}.jinja")


@cache
def _formats() -> Any:
    """An environment in which one format can extend another."""
    made = environment()
    made.loader = FunctionLoader(format_text)
    return made


def _learned(one: Message, rewritten: bool) -> tuple[bool, bool]:
    """Whether what the message's speaker says is learned, and whether it is an answer."""
    answer = one.role == "assistant"
    return (answer if one.train is None else one.train) and not rewritten, answer


@lru_cache(maxsize=1024)
def _told(marked: str, spoken: tuple[tuple[bool, bool], ...]) -> Outline:
    """The outline of a rendering with what is learned in it; spoken: of each message, see `_learned`."""

    def told(segment: Segment) -> Segment:
        if not segment.spoken or segment.message < 0:
            return segment
        trained, answer = spoken[segment.message]
        return replace(segment, trained=trained, answer=answer)

    return Outline(tuple(map(told, outline(marked).segments)))


def _unended(rendered: Rendered, stops: tuple[str, ...]) -> frozenset[int]:
    """The answers that do not end with a stop token."""
    ends = rendered.outline.answer_ends
    return frozenset(message for message, segment in ends.items() if not rendered.text_of(segment).endswith(stops))


@lru_cache(maxsize=1024)
def _without(told: Outline, unended: frozenset[int]) -> Outline:
    """Nothing is learned of an answer from which the model would not learn to stop."""
    return Outline(tuple(replace(one, trained=False) if one.answer and one.message in unended else one for one in told.segments))


def load_template(chat: ChatConfig, tokenizer: Any, family: str = "") -> Template:
    """The template the settings name, or the tokenizer's own where they name none; raises TemplateError with what to write.

    family: the template that the model's family is known to use, "" where nobody knows; it is named, never taken by itself.
    """
    if chat.template is None:
        return OwnTemplate.load(chat, tokenizer, control_names(tokenizer), family if family in rows() else "")
    row = find(chat.template)
    vocabulary = frozenset(tokenizer.get_added_vocab())
    needed = [word for word in dict.fromkeys([*row.tokens, row.stop[0]]) if word != "eos"]
    missing = [word for word in needed if word not in vocabulary]
    if missing:
        raise TemplateError(
            f"template {row.name} needs the control tokens {' '.join(needed)}, and this tokenizer has no {' '.join(missing)}; "
            f"choose another template, or write add_special_tokens: {','.join(missing)} and resize_vocab: true"
        )
    if row.stop[0] == "eos" and not tokenizer.eos_token:
        raise TemplateError(f"template {row.name} ends answers with the tokenizer's eos token, and this tokenizer has none")
    system = row.system if chat.default_system is None else chat.default_system
    bos = tokenizer.bos_token or ""
    return NamedTemplate(
        row,
        find_dialect(chat.tool_format or row.dialect),
        Thinking(chat.enable_thinking, chat.preserve_thinking),
        system,
        bos,
        bos if adds_bos(tokenizer) else "",
        tokenizer.eos_token or "",
        vocabulary,
    )


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts its bos token before a text."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
