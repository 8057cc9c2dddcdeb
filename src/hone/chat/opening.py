"""Openings: the ids with which an answer that calls a given function begins, as the format writes it.

Knows no dialect: two answers that call the function with different arguments are written, and what they have in common is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np

from hone.chat.codec import Codec
from hone.chat.encoded import IGNORE
from hone.chat.message import Conversation, Message, ToolCall
from hone.errors import TemplateError

_SAMPLES = ({}, {"a": 1}, {"b": "c"})
"""Arguments of which no two begin alike, for a function that says nothing of its own."""


def call_openings(codec: Codec, conversation: Conversation, functions: Sequence[str]) -> list[list[int]]:
    """One for each function, up to where its arguments begin to differ; sampled behind `codec.prompt(conversation)`.

    Raises: TemplateError where the format writes no call, or an answer with one that does not go on from the prompt.
    """
    prompt = codec.prompt(conversation)
    return [_opening(codec, conversation, prompt, name) for name in functions]


def _opening(codec: Codec, conversation: Conversation, prompt: list[int], name: str) -> list[int]:
    written = [_answer(codec, conversation, prompt, ToolCall(name, arguments)) for arguments in _arguments(conversation, name)]
    opening = [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, zip(*written, strict=False))]
    if name not in codec.text_of(opening):
        raise TemplateError(
            f"this chat format gives an answer that must call {name} no beginning of its own: leave tool_choice at auto"
        )
    return opening


def _answer(codec: Codec, conversation: Conversation, prompt: list[int], call: ToolCall) -> list[int]:
    whole = replace(conversation, messages=(*conversation.messages, Message("assistant", (call,))))
    (encoded,) = codec.encode([whole], learn="last")
    start = int(np.flatnonzero(encoded.labels != IGNORE)[0])
    if encoded.ids[:start].tolist() != prompt:
        raise TemplateError(
            "this chat format writes an answer with a call other than behind the prompt, as one that thinks first: leave "
            "tool_choice at auto"
        )
    return encoded.ids[start:].tolist()


def _arguments(conversation: Conversation, name: str) -> list[Mapping[str, Any]]:
    """Samples that begin in different ways, with the function's own parameters where it names some."""
    found = [tool.get("function", tool) for tool in conversation.tools]
    schema = next((one.get("parameters") for one in found if one.get("name") == name), None)
    named = list(schema.get("properties", ())) if isinstance(schema, Mapping) else []
    return [{}, *({key: value} for key in named[:2] for value in (1, "c"))] if named else list(_SAMPLES)
