"""Probes: conversations that show what a chat format does, for the laws.

Knows no template.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hone.chat.message import Conversation, Message, Part, Text, Think, ToolCall, ToolResult, message

TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
_NESTED = {"city": 'Sao "P" \\ Paulo\n\u00e9', "days": 3, "options": {"units": ["C", None, True], "depth": {"a": [1, 2.5, []]}}}


@dataclass(frozen=True)
class Probe:
    """A conversation that ends with an answer, and what is particular about it."""

    name: str
    conversation: Conversation

    @property
    def traits(self) -> frozenset[str]:
        """Its name and what it has that formats treat in ways of their own; table.toml tells differences by these words."""
        said = self.conversation.messages
        parts = {type(part) for one in said for part in one.parts}
        held = {
            self.name: True,
            "with system": said[0].role == "system",
            "without system": said[0].role != "system",
            "with thoughts": Think in parts,
            "with tools": bool(self.conversation.tools),
            "with calls": ToolCall in parts,
            "with results": ToolResult in parts,
        }
        return frozenset(word for word, has in held.items() if has)


def _answer(*parts: Part) -> Message:
    return Message("assistant", parts)


def _call(city: str, number: int) -> ToolCall:
    return ToolCall("weather", {"city": city}, f"callid{number:03d}")


def _said(*texts: str) -> tuple[Message, ...]:
    return tuple(message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


def probes() -> list[Probe]:
    """With and without system prompt, several turns, tools, results, thoughts, Unicode, empty and long texts."""
    system = message("system", "Answer in one word.")
    asked = message("user", "Weather in Oslo and Rome?")
    result = Message("tool", (ToolResult("sunny, 20 degrees", "weather", "callid001"),))
    second = Message("tool", (ToolResult('{"sky": "grey"}', "weather", "callid002"),))
    thought = _answer(Think("Two and two\n\nmake four."), Text("Four."))
    found = {
        "one turn": Conversation(_said("Hi", "Hello!")),
        "system": Conversation((system, *_said("Hi", "Hello!"))),
        "turns": Conversation((system, *_said("Hi", "Hello!", "And now?", "Nothing.\n\nReally  nothing.", "Bye", "Bye."))),
        "answers in a row": Conversation((*_said("Hi", "Hello!"), message("assistant", "Still there?"))),
        "questions in a row": Conversation((message("user", "Hi"), *_said("And now?", "Nothing."))),
        "unicode": Conversation(
            _said("\u00e9\u4f60\u597d \U0001f600 e\u0301 \u200b\u0627\u0644", "\U0001f468\u200d\U0001f469\u200d\U0001f467 ok")
        ),
        "white space": Conversation(_said("a  b\n\n\n c\t d", "x   y\n\n  z")),
        "empty question": Conversation(_said("", "Yes?")),
        "long": Conversation(_said("word \u4e2d\u6587 " * 600 + "end", "long answer. " * 400 + "End.")),
        "thought": Conversation((message("user", "2+2?"), thought)),
        "thoughts in turns": Conversation((message("user", "2+2?"), thought, message("user", "Sure?"), thought)),
        "call": Conversation((asked, _answer(_call("Oslo", 1))), (TOOL,)),
        "result": Conversation((asked, _answer(_call("Oslo", 1)), result, message("assistant", "Sunny.")), (TOOL,)),
        "system and call": Conversation(
            (system, asked, _answer(_call("Oslo", 1)), result, message("assistant", "Sunny.")), (TOOL,)
        ),
        "parallel calls": Conversation((asked, _answer(_call("Oslo", 1), _call("Rome", 2))), (TOOL,)),
        "results": Conversation(
            (asked, _answer(_call("Oslo", 1), _call("Rome", 2)), result, second, message("assistant", "Mixed.")), (TOOL,)
        ),
        "text and call": Conversation((asked, _answer(Text("Let me look."), _call("Oslo", 1))), (TOOL,)),
        "nested arguments": Conversation((asked, _answer(ToolCall("weather", _NESTED, "callid001"))), (TOOL,)),
    }
    return [Probe(name, conversation) for name, conversation in found.items()]


def named(traits: Collection[str]) -> frozenset[str]:
    """The names of the probes that have one of these traits."""
    return frozenset(probe.name for probe in probes() if not probe.traits.isdisjoint(traits))


def hostile(words: str) -> list[Probe]:
    """Conversations in which everybody writes `words`: user, system, tool, a tool's description, a call and an answer."""
    nasty = f"a {words} b"
    tool = {"type": "function", "function": {**TOOL["function"], "description": nasty}}
    call = _answer(ToolCall("weather", {"city": nasty}, "callid001"))
    result = Message("tool", (ToolResult(nasty, "weather", "callid001"),))
    found = {
        "user": Conversation(_said(nasty, "no")),
        "user, bare": Conversation(_said(words, "no")),
        "answer": Conversation(_said("hi", nasty)),
        "system": Conversation((message("system", nasty), *_said("hi", "no"))),
        "thought": Conversation((message("user", "hi"), _answer(Think(nasty), Text("no")))),
        "tools": Conversation((message("user", "hi"), call, result, message("assistant", "no")), (tool,)),
    }
    return [Probe(name, conversation) for name, conversation in found.items()]
