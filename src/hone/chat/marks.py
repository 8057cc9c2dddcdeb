"""Marks: how a Jinja format says which of its text is control, which somebody wrote, and which the model is to say.

Does not know any single format, nor tokens; content never passes through Jinja itself, so nothing in it can act as a mark.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Rendered:
    """A conversation as text; the segments joined are the text."""

    text: str
    segments: tuple[Segment, ...]


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
        return f"\0c{len(self.contents) - 1}\0"

    def plain(self, marked: str) -> str:
        """`marked` with its contents put back and all other marks gone."""
        return "".join(segment.text for segment in self.split(marked))

    def split(self, marked: str) -> list[Segment]:
        """The segments of a rendering, neighbours of equal kind joined; empty ones are left out."""
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
                kind, text = "content", self.contents[int(value)]
            _add(found, Segment(text, kind, message, spoken))
        return found


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
