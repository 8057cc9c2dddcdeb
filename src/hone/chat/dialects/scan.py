"""Scan: reading a block of calls from text that is still growing, as a generator that waits where it ends.

Knows JSON, but no dialect: each is a generator made of these steps. A step yields events, or None to ask for more text.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

from hone.chat.events import ArgumentsGrown, CallBegun, CallMade, Event
from hone.chat.message import ToolCall

TAG = "\ud800"
"""Half a character, which no decoded text holds: it stands before the spelling of a real control token."""

T = TypeVar("T")
Step = Generator[Event | None, None, T]

_REACH = 128
_QUOTED, _BARE, _SCALAR = re.compile(r'["\\]'), re.compile(r'["{}\[\]]'), re.compile(r"[^\s,:\]}]*")


class NoCall(Exception):
    """What was read is no call."""


class Scan:
    """text: of the answer so far; at: what is read next; ended: no more text will come; tools: the functions on offer, by name.

    num_begun: calls that have begun; num_made: of these, calls that are complete or dropped.
    """

    def __init__(self, mark: Callable[[str], str], tools: Sequence[Mapping[str, Any]] = ()):
        self.text, self.at, self.ended = "", 0, False
        self.num_begun = self.num_made = 0
        self.mark = mark
        functions = [tool.get("function", tool) for tool in tools]
        self.tools = {function.get("name"): function for function in functions}

    def end(self) -> Step[None]:
        """Nothing but white space is left."""
        yield from self.space()
        if self.at < len(self.text):
            raise NoCall

    def space(self) -> Step[None]:
        """White space, if there is any."""
        while True:
            while self.at < len(self.text) and self.text[self.at].isspace():
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return
            yield None

    def maybe(self, *words: str) -> Step[str]:
        """The word that stands here, '' for none; words are as the dialect spells them."""
        marked = [self.mark(word) for word in words]
        while True:
            for word, found in zip(words, marked, strict=True):
                if self.text.startswith(found, self.at):
                    self.at += len(found)
                    return word
            rest = self.text[self.at : self.at + max(map(len, marked))]
            if self.ended or not any(word.startswith(rest) for word in marked):
                return ""
            yield None

    def word(self, *words: str) -> Step[str]:
        """The word that must stand here."""
        found = yield from self.maybe(*words)
        if not found:
            raise NoCall
        return found

    def upto(self, pattern: re.Pattern[str], longest: int = sys.maxsize) -> Step[tuple[str, str]]:
        """The text before the next match of `pattern`, at most `longest` characters, and the match; on behind it.

        The pattern ends in a fixed word and matches at most _REACH characters, so that no match changes when more text comes.
        """
        start = seek = self.at
        while True:
            found = pattern.search(self.text, seek)
            if found is not None and found.start() - start <= longest:
                self.at = found.end()
                return self.text[start : found.start()], found.group()
            if self.ended or len(self.text) - start > longest + _REACH:
                raise NoCall
            seek = max(start, len(self.text) - _REACH)
            yield None

    def json(self, index: int | None = None) -> Step[Any]:
        """A JSON value; index: of the call whose arguments it is, of which it then tells."""
        yield from self.space()
        start = sent = position = self.at
        if start == len(self.text):
            raise NoCall
        if self.text[start] not in '{["':
            return (yield from self._scalar())
        depth, quoted = 0, False
        while True:
            found = (_QUOTED if quoted else _BARE).search(self.text, position)
            escaped = found is not None and found.group() == "\\"
            if found is None or (escaped and found.end() == len(self.text)):
                position = found.start() if found else len(self.text)
                if self.ended:
                    raise NoCall
                if index is not None and position > sent:
                    yield ArgumentsGrown(index, self.text[sent:position].replace(TAG, ""))
                    sent = position
                yield None
                continue
            position = found.end() + escaped
            quoted ^= found.group() == '"'
            depth += (found.group() in "{[") - (found.group() in "]}") if not escaped else 0
            if depth <= 0 and not quoted:
                break
        self.at = position
        value = decoded(self.text[start:position])
        if index is not None:
            yield ArgumentsGrown(index, self.text[sent:position].replace(TAG, ""))
        return value

    def _scalar(self) -> Step[Any]:
        while True:
            found = _SCALAR.match(self.text, self.at)
            assert found is not None
            if found.end() < len(self.text) or self.ended:
                break
            yield None
        start, self.at = self.at, found.end()
        return decoded(self.text[start : self.at])

    def begin(self, name: str, identity: str = "") -> Step[int]:
        """A call of `name` begins; its index."""
        self.num_begun += 1
        yield CallBegun(self.num_begun - 1, name.replace(TAG, ""), identity.replace(TAG, ""))
        return self.num_begun - 1

    def argument(self, index: int, arguments: dict[str, Any], key: str, value: Any) -> Step[None]:
        """One more of the arguments of a call that is not said in JSON."""
        key = key.replace(TAG, "")
        said = json.dumps({key: value}, ensure_ascii=False)[1:-1]
        yield ArgumentsGrown(index, (", " if arguments else "{") + said)
        arguments[key] = value

    def finish(self, index: int, name: str, arguments: dict[str, Any]) -> Step[None]:
        """The arguments of a call that is not said in JSON are complete, and so is the call."""
        yield ArgumentsGrown(index, "}" if arguments else "{}")
        yield from self.make(ToolCall(name.replace(TAG, ""), arguments), index)

    def span(self, quotes: Mapping[str, bool], ends: str) -> Step[str]:
        """The text up to the first of `ends` outside brackets and quotes; quotes: and whether a backslash escapes in them."""
        marked = {self.mark(quote): escapes for quote, escapes in quotes.items()}
        outside = re.compile("|".join(map(re.escape, marked)) + r"|[\[\](){}" + re.escape(ends) + "]")
        inside = {quote: re.compile(re.escape(quote) + (r"|\\" if escapes else "")) for quote, escapes in marked.items()}
        start = position = self.at
        longest, depth, open_quote = max(map(len, marked)), 0, ""
        while True:
            found = inside.get(open_quote, outside).search(self.text, position)
            word = found.group() if found else ""
            if found is None or (word == "\\" and found.end() == len(self.text)):
                if self.ended:
                    raise NoCall
                position = found.start() if found else max(position, len(self.text) - longest + 1)
                yield None
                continue
            position = found.end() + (word == "\\")
            if open_quote or word in marked:
                open_quote = open_quote if word == "\\" else "" if open_quote else word
                continue
            if depth == 0 and word in ends:
                self.at = found.start()
                return self.text[start : self.at]
            depth += (word in "[({") - (word in "])}")
            if depth < 0:
                raise NoCall

    def make(self, call: ToolCall, index: int | None = None) -> Step[None]:
        """A call is complete; index None: nothing was told of it yet."""
        if index is None:
            index = yield from self.begin(call.name, call.id)
            yield ArgumentsGrown(index, json.dumps(dict(call.arguments), ensure_ascii=False))
        self.num_made = index + 1
        yield CallMade(index, call)

    def object(
        self,
        names: tuple[str, ...] = ("name",),
        arguments: tuple[str, ...] = ("arguments", "parameters"),
        *,
        ids: str = "id",
        bare: bool = True,
    ) -> Step[tuple[ToolCall, int | None]]:
        """A call said as a JSON object, its keys in any order, and its index where it has begun; bare: it may lack arguments."""
        yield from self.space()
        yield from self.word("{")
        name, identity, value, index = "", "", None, None
        while True:
            yield from self.space()
            key = yield from self.json()
            yield from self.space()
            yield from self.word(":")
            if key in arguments and value is None:
                index = (yield from self.begin(name, identity)) if name else None
                value = yield from self.json(index)
                if not isinstance(value, dict):
                    raise NoCall
            else:
                said = yield from self.json()
                if key in names:
                    if index is not None or not isinstance(said, str) or not said:
                        raise NoCall
                    name = said
                identity = said if key == ids else identity
            yield from self.space()
            if (yield from self.word(",", "}")) == "}":
                break
        if not name or (value is None and not bare):
            raise NoCall
        return ToolCall(name, value or {}, identity if isinstance(identity, str) else ""), index


def decoded(text: str) -> Any:
    """The JSON value `text` is, control tokens in it read as text; raises NoCall."""
    try:
        return json.loads(text.replace(TAG, ""))
    except (ValueError, RecursionError) as error:
        raise NoCall from error
