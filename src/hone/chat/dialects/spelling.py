"""How names, arguments and bare values are spelled and read back.

Knows no dialect: they put the words around it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hone.chat.dialects.scan import NoCall
from hone.chat.marks import Ink
from hone.chat.message import ToolCall
from hone.errors import TemplateError

_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}


def dumps(value: Any) -> str:
    """JSON as Hugging Face's templates write it."""
    return json.dumps(value, ensure_ascii=False)


def spelled_name(call: ToolCall, ink: Ink) -> str:
    """The call's name as it stands inside a JSON string."""
    return ink.content(dumps(call.name)[1:-1])


def spelled_arguments(call: ToolCall, ink: Ink) -> str:
    """The call's arguments as a JSON object."""
    return ink.content(dumps(dict(call.arguments)))


def bare_name(call: ToolCall, ink: Ink, dialect: str, end: str) -> str:
    """The call's name as it is; raises TemplateError for one that holds white space or a character of `end`."""
    return ink.content(bare(call.name, dialect, "the function name", end + " \t\r\n"))


def bare(text: str, dialect: str, what: str, banned: str) -> str:
    """`text`; raises TemplateError where it is empty or holds a character of `banned`; a space there bans all white space."""
    if not text or any(char in banned or (" " in banned and char.isspace()) for char in text):
        raise TemplateError(
            f'tool dialect "{dialect}" writes {what} without quotes and cannot write {text!r}: it must not be empty, nor hold '
            f"any of {banned!r}"
        )
    return text


def check_ends(text: str, written: str, end: re.Pattern[str], dialect: str) -> None:
    """Raise TemplateError where `text`, followed by `written`, would be read as ending too early."""
    found = end.search(text + written)
    if found is None or found.start() != len(text):
        raise TemplateError(
            f'tool dialect "{dialect}" writes texts without quotes, and an argument holds the words that end one: {text[:80]!r}; '
            "leave this conversation out, or choose another tool_format"
        )


def schema_of(tools: Mapping[str, Any], name: str, key: str) -> Mapping[str, Any]:
    """The JSON schema of argument `key` of the function `name`, {} where the tools do not tell."""
    function = tools.get(name) or {}
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    found = properties.get(key) if isinstance(properties, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def value_of(text: str, schema: Mapping[str, Any]) -> Any:
    """The value of an argument that was written without quotes if it is a string, and as JSON or Python literal if not.

    A schema that names types decides; the only doubt it leaves is a string among other types, which is read as one of those where
    it reads as one. Without such a schema, what reads as a literal other than a string is one, and all else is a string.
    """
    kinds = _kinds(schema)
    if kinds == {"string"}:
        return text
    try:
        value = literal(text.strip())
    except NoCall:
        return text
    if isinstance(value, str):
        return value if kinds and "string" not in kinds else text
    return value if "string" not in kinds or _kind(value) & kinds else text


def literal(text: str) -> Any:
    """JSON, or a literal of Python; raises NoCall."""
    if text in _WORDS:
        return _WORDS[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return read_literal(text)


def _kind(value: Any) -> set[str]:
    if value is None or isinstance(value, bool):
        return {"null" if value is None else "boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    return {"number"} if isinstance(value, float) else {"array"} if isinstance(value, list) else {"object"}


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    """The types a schema allows, empty where it does not say."""
    said = schema.get("type")
    kinds = {said} if isinstance(said, str) else {kind for kind in said or () if isinstance(kind, str)}
    for key in ("anyOf", "oneOf", "allOf"):
        for inner in schema.get(key) or ():
            kinds |= _kinds(inner) if isinstance(inner, Mapping) else set()
    if not kinds and isinstance(schema.get("enum"), list):
        for value in schema["enum"]:
            kinds |= {"string"} if isinstance(value, str) else _kind(value)
    return kinds | ({"null"} if kinds and schema.get("nullable") is True else set())


_STRING = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}
_BARE = re.compile(r"[^\s,:\[\](){}]+")


def read_literal(text: str, quote: str = "") -> Any:
    """The literal `text` is: JSON or Python, or, with `quote`, strings raw between two of it and keys bare; raises NoCall."""
    try:
        value, end = _value(text, _spaced(text, 0), quote)
    except RecursionError as error:
        raise NoCall from error
    if text[end:].strip():
        raise NoCall
    return value


def _value(text: str, at: int, quote: str) -> tuple[Any, int]:
    if quote and text.startswith(quote, at):
        end = text.find(quote, at + len(quote))
        if end < 0:
            raise NoCall
        return text[at + len(quote) : end], end + len(quote)
    if text.startswith(("[", "("), at):
        return _items(text, at + 1, quote, "]" if text[at] == "[" else ")")
    if text.startswith("{", at):
        return _members(text, at + 1, quote)
    if found := _STRING.match(text, at):
        return unescaped(found[1] if found[1] is not None else found[2]), found.end()
    found = _BARE.match(text, at)
    if not found:
        raise NoCall
    return _word(found[0]), found.end()


def _word(word: str) -> Any:
    if word in _WORDS:
        return _WORDS[word]
    try:
        return {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}.get(word) or json.loads(word)
    except (ValueError, RecursionError) as error:
        raise NoCall from error


def _items(text: str, at: int, quote: str, closing: str) -> tuple[list[Any], int]:
    found: list[Any] = []
    at = _spaced(text, at)
    while not text.startswith(closing, at):
        value, at = _value(text, at, quote)
        found.append(value)
        at = _next(text, at, closing)
    return found, at + 1


def _members(text: str, at: int, quote: str) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    at = _spaced(text, at)
    while not text.startswith("}", at):
        bare_key = _BARE.match(text, at) if quote and not text.startswith(quote, at) else None
        key, at = (bare_key[0], bare_key.end()) if bare_key else _value(text, at, quote)
        at = _spaced(text, at)
        if not text.startswith(":", at):
            raise NoCall
        value, at = _value(text, _spaced(text, at + 1), quote)
        found[key if isinstance(key, str) else dumps(key)] = value
        at = _next(text, at, "}")
    return found, at + 1


def _next(text: str, at: int, closing: str) -> int:
    """Behind a comma, or at the closing bracket."""
    at = _spaced(text, at)
    if text.startswith(",", at):
        return _spaced(text, at + 1)
    if not text.startswith(closing, at):
        raise NoCall
    return at


def _spaced(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def unescaped(text: str) -> str:
    """What a string literal of Python or JSON says between its quotes."""

    def char(found: re.Match[str]) -> str:
        said = found[1]
        if len(said) == 1:
            return _ESCAPES.get(said, said)
        code = int(said[1:], 16)
        if code > 0x10FFFF:
            raise NoCall
        return chr(code)

    said = _ESCAPE.sub(char, text)
    if any("\ud800" <= char <= "\udfff" for char in said):  # JSON writes what lies beyond 16 bits as two halves
        return said.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return said
