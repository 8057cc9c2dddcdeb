"""OpenAI's JSON shape of a conversation (`messages`, `tools`) read into ours and written back.

Knows no template, no tokenizer and no file: a caller hands over decoded JSON and names the place in its own error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from hone.chat.message import Conversation, Media, Message, Part, Role, Text, Think, ToolCall, ToolResult
from hone.errors import DataError
from hone.table import nearest

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


NO_MEDIA: Mapping[str, Media] = MappingProxyType({})


def conversation_from_openai(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    media: Mapping[str, Media] = NO_MEDIA,
) -> Conversation:
    """`conversation_from_openai([{"role": "user", "content": "Hi"}])`; raises DataError that names the message and the key.

    content: a string, a list of text parts, or null; assistants may carry tool_calls and reasoning_content; `train` (true or
    false) or OpenAI's `weight` (0 or 1) tells whether the message is learned. media: what the caller has read of a user's other
    parts, by place ("messages[0].content[1]"); parts that are not there are refused, and nothing is opened or fetched here.
    """
    if not _is_list(messages):
        raise DataError(f"messages must be a list of objects, not {_shape(messages)}")
    if tools is not None and not _is_list(tools):
        raise DataError(f"tools must be a list of JSON-schema objects, not {_shape(tools)}")
    for index, tool in enumerate(tools or ()):
        if not isinstance(tool, Mapping):
            raise DataError(f"tools[{index}] must be an object, not {_shape(tool)}")
    read = (_message(item, f"messages[{index}]", media) for index, item in enumerate(messages))
    return Conversation(tuple(read), tuple(tools or ()))


def to_openai(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages as OpenAI's dicts, arguments decoded; a tool message with several results becomes several messages."""
    return [item for message in conversation.messages for item in message_to_openai(message)]


def message_to_openai(message: Message) -> list[dict[str, Any]]:
    """One message as OpenAI's dicts: one, or for a tool message one a result. Absent keys stay absent.

    A picture, a film or a sound is written as the path of its file. Raises: DataError where it has none.
    """
    results = [part for part in message.parts if isinstance(part, ToolResult)]
    if results:
        return [_result(part) for part in results]
    content = [_piece(part) for part in message.parts if isinstance(part, Text | Media)] if message.media else message.text
    item: dict[str, Any] = {"role": message.role, "content": content}
    thoughts = [part.text for part in message.parts if isinstance(part, Think)]
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    if thoughts:
        item["reasoning_content"] = "".join(thoughts)
    if calls:
        item["tool_calls"] = [_call(part) for part in calls]
    return [item]


def _piece(part: Text | Media) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if not isinstance(part.source, PurePath):
        raise DataError(f"{part.kind} content that lies in no file is not written as JSON")
    return {"type": f"{part.kind}_url", f"{part.kind}_url": {"url": str(part.source)}}


def _result(part: ToolResult) -> dict[str, Any]:
    item = {"role": "tool", "content": part.content}
    return item | ({"name": part.name} if part.name else {}) | ({"tool_call_id": part.id} if part.id else {})


def _call(part: ToolCall) -> dict[str, Any]:
    call: dict[str, Any] = {"type": "function", "function": {"name": part.name, "arguments": dict(part.arguments)}}
    return call | ({"id": part.id} if part.id else {})


def _message(item: Any, where: str, media: Mapping[str, Media]) -> Message:
    if not isinstance(item, Mapping):
        raise DataError(f"{where} must be an object with role and content, not {_shape(item)}")
    if "role" not in item:
        raise DataError(f'{where} has no "role"; it has {", ".join(map(str, item)) or "nothing"}')
    role = item["role"]
    if role not in ROLES:
        hint = nearest(role, list(ROLES)) if isinstance(role, str) else ""
        raise DataError(f"{where}.role is {role!r}{hint}; known: {', '.join(ROLES)}")
    calls = _calls(item, where)
    if "content" not in item and not calls:
        raise DataError(f'{where} has no "content"')
    content = _content(item.get("content"), f"{where}.content", media)
    if item.get("content") is None and not calls:
        raise DataError(f"{where}.content is null, and there are no tool_calls")
    return Message(ROLES[role], _parts(ROLES[role], item, content, calls, where), _train(item, where))


def _parts(
    role: Role, item: Mapping[str, Any], content: list[Text | Media], calls: list[ToolCall], where: str
) -> tuple[Part, ...]:
    shown = [part for part in content if isinstance(part, Media)]
    if shown and role != "user":
        raise DataError(f"{where}: only a user's message can hold {shown[0].kind} content, not {role}'s")
    if role == "user" and not calls:
        return tuple(content) or (Text(""),)
    text = "".join(part.text for part in content if isinstance(part, Text))
    if role == "tool":
        return (ToolResult(text, _string(item, "name", where), _string(item, "tool_call_id", where)),)
    if role != "assistant":
        if calls:
            raise DataError(f"{where}: only an assistant can have tool_calls, not {role}")
        return (Text(text),)
    thought = _string(item, "reasoning_content", where) or _string(item, "reasoning", where)
    parts: list[Part] = [Think(thought)] if thought else []
    if text or not calls:
        parts.append(Text(text))
    return (*parts, *calls)


def _content(content: Any, where: str, media: Mapping[str, Media]) -> list[Text | Media]:
    """Texts and media in order; texts that follow each other are one."""
    if content is None or isinstance(content, str):
        return [Text(content)] if content else []
    if not _is_list(content):
        raise DataError(f"{where} must be a string or a list of text parts, not {_shape(content)}")
    parts: list[Text | Media] = []
    for index, piece in enumerate(content):
        place = f"{where}[{index}]"
        part = media[place] if place in media else Text(_text_part(piece, place))
        if isinstance(part, Text) and parts and isinstance(parts[-1], Text):
            part = Text(parts.pop().text + part.text)
        parts.append(part)
    return parts


def _text_part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, Mapping) else _shape(part)
    raise DataError(f'{where} must be {{"type": "text", "text": "..."}}; {kind!r} parts are not supported')


def _calls(item: Mapping[str, Any], where: str) -> list[ToolCall]:
    raw = item.get("tool_calls") or []
    if not _is_list(raw):
        raise DataError(f"{where}.tool_calls must be a list, not {_shape(raw)}")
    if item.get("function_call"):
        raw = [*raw, {"function": item["function_call"]}]
    return [_tool_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(raw)]


def _tool_call(call: Any, where: str) -> ToolCall:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f'{where} must be {{"function": {{"name": "...", "arguments": {{...}}}}}}')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _decoded(arguments, f"{where}.function.arguments")
    if not isinstance(arguments, Mapping):
        raise DataError(f"{where}.function.arguments must be a JSON object, not {_shape(arguments)}")
    return ToolCall(function["name"], arguments, _string(call, "id", where))


def _decoded(text: str, where: str) -> Any:
    try:
        return json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error}; it reads {text[:80]!r}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
        raise DataError(f"{where} is more than can be read; it reads {text[:80]!r}") from error


def _train(item: Mapping[str, Any], where: str) -> bool | None:
    if item.get("train") is not None:
        if not isinstance(item["train"], bool):
            raise DataError(f"{where}.train must be true or false, not {item['train']!r}")
        return item["train"]
    if item.get("weight") is None:
        return None
    if item["weight"] not in (0, 1):
        raise DataError(f"{where}.weight must be 0 or 1, not {item['weight']!r}")
    return bool(item["weight"])


def _string(item: Mapping[str, Any], key: str, where: str) -> str:
    value = item.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}.{key} must be a string, not {_shape(value)}")
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _shape(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
