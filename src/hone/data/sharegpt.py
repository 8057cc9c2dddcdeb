"""The sharegpt and openai shapes: a row holds a list of messages, each an object with a role and a content.

Does not know files or templates. Roles may come in any order; any message may say `train: true | false` (or `weight: 0 | 1`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hone.chat.message import Conversation, Message, Part, Text, ToolCall, ToolResult, message
from hone.chat.openai import conversation_from_openai
from hone.data.catalog import DatasetSpec, Tags
from hone.data.columns import RowError, answer, answer_parts, decoded, list_of, missing_column, read_tools, text_of
from hone.errors import DataError
from hone.table import nearest

_WRAPPED = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_THOUGHT = re.compile(r"\s*(<think>.*?</think>)?\s*(.*)", re.DOTALL)
_PLACE = re.compile(r"\[\d+\]")


def sharegpt(row: Mapping[str, Any], spec: DatasetSpec) -> Conversation:
    """`{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}`.

    A system message that opens the list wins over the system column, as in LLaMA-Factory.
    """
    column = spec.columns.messages
    if not column or column not in row:
        raise missing_column(row, "messages", column or "messages")
    said = [_message(item, spec.tags) for item in list_of(row, column)]
    return _with_system(Conversation(tuple(said), read_tools(row, spec.columns.tools)), row, spec)


def openai(row: Mapping[str, Any], spec: DatasetSpec) -> Conversation:
    """`{"messages": [{"role": "user", "content": "Hi"}, ...], "tools": [...]}`, with the entry's own names where it has tags."""
    column = spec.columns.messages
    # The default name of the column is sharegpt's; OpenAI's own files say "messages".
    if column == "conversations" and column not in row and "messages" in row:
        column = "messages"
    if not column or column not in row:
        raise missing_column(row, "messages", column or "messages")
    renamed = [_renamed(item, spec.tags) for item in list_of(row, column)]
    tools = read_tools(row, spec.columns.tools or "tools")
    try:
        conversation = conversation_from_openai(renamed, tools)
    except DataError as error:
        raise RowError(_PLACE.sub("[]", str(error)).split(";")[0], str(error)) from error
    messages = tuple(_checked(said) for said in conversation.messages)
    return _with_system(replace(conversation, messages=messages), row, spec)


def one_message(item: Any, spec: DatasetSpec) -> Message:
    """One message of a row in the set's shape, such as a chosen answer."""
    if spec.shape == "sharegpt":
        return _message(item, spec.tags)
    return openai({"messages": [item]}, replace(spec, columns=replace(spec.columns, messages="messages"))).messages[0]


def _with_system(conversation: Conversation, row: Mapping[str, Any], spec: DatasetSpec) -> Conversation:
    system = text_of(row, spec.columns.system)
    if not system or (conversation.messages and conversation.messages[0].role == "system"):
        return conversation
    return replace(conversation, messages=(message("system", system), *conversation.messages))


def _checked(said: Message) -> Message:
    """An assistant's text with its thought told apart; RowError where there is nothing to learn in it."""
    if said.role != "assistant":
        return said
    if all(isinstance(part, Text) for part in said.parts):
        return answer(said.text, train=said.train)
    parts: list[Part] = []
    for part in said.parts:
        parts += answer_parts(part.text) if isinstance(part, Text) else [part]
    return replace(said, parts=tuple(parts))


def _renamed(item: Any, tags: Tags) -> Any:
    """A message with the entry's names replaced by OpenAI's; what has no name of its own passes through."""
    if not isinstance(item, Mapping):
        return item
    keys = {tags.role_tag: "role", tags.content_tag: "content"}
    plain = {keys.get(key, key): value for key, value in item.items() if value is not None or keys.get(key) == "content"}
    roles = {
        tags.user_tag: "user", tags.assistant_tag: "assistant", tags.observation_tag: "tool", tags.function_tag: "function",
        tags.system_tag: "system",
    }  # fmt: skip
    role = plain.get("role")
    # A function_tag of the entry's own marks an assistant's call; OpenAI's old word "function" marks a result.
    if role is not None and role == tags.function_tag and role != "function":
        return {"role": "assistant", "content": None, "tool_calls": _call_objects(plain.get("content"))}
    return {**plain, "role": roles.get(role, role)} if isinstance(role, str) else plain


def _call_objects(content: Any) -> list[dict[str, Any]]:
    if not isinstance(content, str):
        raise RowError("a function call's content is not text", f"seen {type(content).__name__}")
    return [{"function": {"name": call.name, "arguments": dict(call.arguments)}} for call in read_calls(content)]


def _message(item: Any, tags: Tags) -> Message:
    if not isinstance(item, Mapping):
        raise RowError("a message is not an object", f"seen {type(item).__name__}")
    if tags.role_tag not in item or tags.content_tag not in item:
        detail = f"it has {', '.join(map(str, item)) or 'nothing'}; say what is what with `tags`"
        raise RowError(f'a message has no "{tags.role_tag}" and "{tags.content_tag}"', detail)
    role, text = item[tags.role_tag], item[tags.content_tag]
    readers = _readers(tags)
    if not isinstance(role, str) or role not in readers:
        hint = nearest(role, list(readers)) if isinstance(role, str) else ""
        raise RowError(f"unknown role {role!r}{hint}", f"known: {', '.join(readers)}; say what is what with `tags`")
    if not isinstance(text, str):
        raise RowError("a message's content is not text", f"{role}: seen {type(text).__name__}")
    return readers[role](text, _train(item))


def _readers(tags: Tags) -> dict[str, Callable[[str, bool | None], Message]]:
    """What to do with each role the set has names for."""
    named = {
        tags.user_tag: lambda text, train: message("user", text, train=train),
        tags.assistant_tag: lambda text, train: answer(text, train=train),
        tags.observation_tag: lambda text, train: Message("tool", (ToolResult(text),), train),
        tags.function_tag: _function_call,
        tags.system_tag: lambda text, train: message("system", text, train=train),
    }
    return {name: reader for name, reader in named.items() if name}


def _function_call(text: str, train: bool | None) -> Message:
    match = _THOUGHT.fullmatch(text)
    assert match is not None, "the pattern matches any text"
    thought = answer_parts(match[1]) if match[1] else ()
    return Message("assistant", (*thought, *read_calls(match[2])), train)


def read_calls(text: str) -> tuple[ToolCall, ...]:
    """Calls written as JSON: `{"name": ..., "arguments": {...}}`, a list of them, or each in <tool_call>...</tool_call>."""
    wrapped = _WRAPPED.findall(text)
    value = [decoded(body, "a function call") for body in wrapped] if wrapped else decoded(text, "a function call")
    calls = tuple(_call(item) for item in (value if isinstance(value, list) else [value]))
    if not calls:
        raise RowError("a function call names no function", f"it reads {text[:60]!r}")
    return calls


def _call(item: Any) -> ToolCall:
    if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
        raise RowError("a function call names no function", f"seen {json.dumps(item, default=str)[:80]}")
    arguments = item.get("arguments", {})
    if isinstance(arguments, str):
        arguments = decoded(arguments, "a function call's arguments")
    if not isinstance(arguments, Mapping):
        raise RowError("a function call's arguments are not an object", f"seen {json.dumps(arguments, default=str)[:80]}")
    return ToolCall(item["name"], arguments)


def _train(item: Mapping[str, Any]) -> bool | None:
    for key, allowed in (("train", (True, False)), ("weight", (0, 1))):
        value = item.get(key)
        if value is not None:
            if value not in allowed or (key == "train" and not isinstance(value, bool)):
                raise RowError(f"a message's {key} is not {allowed[0]} or {allowed[1]}", f"seen {value!r}")
            return bool(value)
    return None
