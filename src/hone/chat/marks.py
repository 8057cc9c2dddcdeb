"""Marks: how a Jinja format says which of its text is control, which somebody wrote, and which the model is to say.

Does not know any single format, nor tokens; content never passes through Jinja itself, so nothing in it can act as a mark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal, NoReturn

from jinja2 import nodes
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hone.errors import TemplateError

Kind = Literal["control", "content"]
GENERATION, END_GENERATION = "\0g\0", "\0e\0"
_MARK = re.compile("\0([^\0]*)\0")


@dataclass(frozen=True)
class Segment:
    """A stretch of the rendered text from one source.

    message: index into the conversation, -1 before the first; spoken: inside the part of a message its speaker says, the stop
    token included; trained: whether it is learned when answers are; answer: whether it is what the model says.
    """

    text: str
    kind: Kind
    message: int
    spoken: bool
    trained: bool = False
    answer: bool = False

    def saying(self, text: str) -> Segment:
        """The same with another text."""
        if text == self.text:
            return self
        return Segment(text, self.kind, self.message, self.spoken, self.trained, self.answer)


@dataclass(frozen=True, eq=False)
class Outline:
    """Segments whose contents are still marks: one for all conversations of a form, so that what follows from it is made once.

    The text of a content segment is marks alone, unless the outline is literal: then nothing in it is a mark.
    """

    segments: tuple[Segment, ...]
    literal: bool = False

    @cached_property
    def answer_ends(self) -> dict[int, Segment]:
        """The last segment of each answer, by its message."""
        return {segment.message: segment for segment in self.segments if segment.answer}


@dataclass(frozen=True)
class Rendered:
    """A conversation as text: an outline, and the contents that its marks stand for."""

    outline: Outline
    contents: Sequence[str]

    def text_of(self, segment: Segment) -> str:
        """The text of a segment of the outline."""
        marked = segment.kind == "content" and not self.outline.literal
        return fill(parts_of(segment.text), self.contents) if marked else segment.text

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The outline's with their texts."""
        return tuple(
            Segment(self.text_of(one), one.kind, one.message, one.spoken, one.trained, one.answer)
            for one in self.outline.segments
        )

    @cached_property
    def text(self) -> str:
        """All of it."""
        return "".join(map(self.text_of, self.outline.segments))


def parts_of(marked: str) -> tuple[str | int, ...]:
    """Marked text as literal text and the numbers of contents."""
    found = _MARK.split(marked)
    return tuple(int(part[1:]) if number % 2 else part for number, part in enumerate(found) if part)


def fill(parts: Sequence[str | int], contents: Sequence[str]) -> str:
    """The parts with contents in place of their numbers."""
    return "".join([part if isinstance(part, str) else contents[part] for part in parts])


def set_aside(segments: Sequence[Segment]) -> Rendered:
    """Segments with their texts as an outline and contents."""
    contents = [one.text for one in segments if one.kind == "content"]
    marks = iter(range(len(contents)))
    kept = tuple(one.saying(content_mark(next(marks))) if one.kind == "content" else one for one in segments)
    return Rendered(_same_outline(kept), contents)


@lru_cache(maxsize=1024)
def _same_outline(segments: tuple[Segment, ...]) -> Outline:
    return Outline(segments)


def check_unicode(text: str) -> None:
    """Raise TemplateError for text that is not valid Unicode, which JSON can write and no tokenizer reads."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        seen = text[max(0, error.start - 10) : error.start + 10]
        raise TemplateError(f"a text holds half a character (a lone surrogate) near {seen!r}; mend the text") from error


@dataclass
class Ink:
    """What was written during one rendering: `content` keeps a text aside and gives the mark that stands for it.

    controls: spellings of control tokens, which content never makes, so that it may hold them.
    """

    contents: list[str] = field(default_factory=list)
    controls: frozenset[str] = frozenset()

    def content(self, text: str) -> str:
        """The mark of `text`; '' stays ''. Raises TemplateError for text that is not valid Unicode."""
        if not text:
            return ""
        check_unicode(text)
        self.contents.append(text)
        return content_mark(len(self.contents) - 1)

    def plain(self, marked: str) -> str:
        """`marked` with its contents put back and all other marks gone."""
        return "".join(segment.text for segment in self.split(marked))

    def split(self, marked: str) -> tuple[Segment, ...]:
        """The segments of a rendering, neighbours of equal kind joined; empty ones are left out."""
        return Rendered(outline(marked), self.contents).segments


@lru_cache(maxsize=1024)
def outline(marked: str) -> Outline:
    """The outline of a rendering, neighbours of equal kind joined; empty segments are left out."""
    found: list[Segment] = []
    message, spoken = -1, False
    for number, text in enumerate(_MARK.split(marked)):
        kind: Kind = "control"
        if number % 2:
            code, value = text[0], text[1:]
            if code == "m":
                message = int(value)
            elif code in "ge":
                spoken = code == "g"
            if code != "c":
                continue
            kind, text = "content", f"\0{text}\0"
        _add(found, Segment(text, kind, message, spoken))
    return Outline(tuple(found))


def content_mark(number: int) -> str:
    """The mark that stands for a rendering's content `number`."""
    return f"\0c{number}\0"


def _add(found: list[Segment], new: Segment) -> None:
    if not new.text:
        return
    last = found[-1] if found else None
    if last and (last.kind, last.message, last.spoken) == (new.kind, new.message, new.spoken):
        found[-1] = Segment(last.text + new.text, new.kind, new.message, new.spoken)
    else:
        found.append(new)


def at(index: int) -> str:
    """The mark after which text belongs to message `index`."""
    return f"\0m{index}\0"


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: what the speaker of a message says, its end included."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own interface)

    def parse(self, parser: Any) -> nodes.Node:
        """Turn the block into a call that puts marks around it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        return GENERATION + caller() + END_GENERATION


def to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """Jinja's `tojson` as Hugging Face has it: no HTML escapes, characters as they are."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def fail(message: str) -> NoReturn:
    """`raise_exception` of templates: the conversation cannot be rendered, and why."""
    raise TemplateError(message)


def environment(*extensions: Any) -> ImmutableSandboxedEnvironment:
    """A sandbox with Hugging Face's white space rules, `tojson`, loop controls, `raise_exception` and the generation tag."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols", *extensions]
    )
    made.filters["tojson"] = to_json
    # Jinja's own `safe` makes a string that HTML-escapes whatever is joined to it; no HTML is written here.
    made.filters["safe"] = str
    made.globals["raise_exception"] = fail
    return made


def run(template: Any, name: str, **names: Any) -> str:
    """Render a compiled Jinja template; whatever goes wrong inside is a TemplateError that names the template."""
    try:
        return template.render(**names)
    except TemplateError as error:
        raise TemplateError(f"template {name}: {error}") from error
    except (JinjaError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise TemplateError(f"template {name} cannot render this conversation: {type(error).__name__}: {error}") from error
