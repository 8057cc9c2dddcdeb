"""hone render: what a chat format makes of a conversation, as JSON.

Does not render: the codec does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hone.chat.codec import Codec
from hone.chat.message import Conversation
from hone.chat.openai import conversation_from_openai
from hone.commands.chat_arguments import load_codec, read
from hone.errors import DataError, HoneError


def main(arguments: list[str]) -> int:
    """Print text, ids, labels and prompt_ids of the conversation in FILE (- for standard input)."""
    words = read(arguments, "render")
    if len(words.rest) != 1:
        raise HoneError("name one file: hone render [--template NAME] --tokenizer DIR FILE.json (- for standard input)")
    conversation = _read(words.rest[0])
    print(json.dumps(rendering(load_codec(words, "render"), conversation), ensure_ascii=False))
    return 0


def rendering(codec: Codec, conversation: Conversation) -> dict[str, Any]:
    """text; ids and labels (-100 where nothing is learned); prompt_ids: of the final answer, or of the answer to come."""
    encoded = codec.encode([conversation])[0]
    answered = conversation.messages[-1].role == "assistant"
    asked = Conversation(conversation.messages[:-1], conversation.tools) if answered else conversation
    return {
        "text": codec.render(conversation).text,
        "ids": encoded.ids.tolist(),
        "labels": encoded.labels.tolist(),
        "prompt_ids": codec.prompt(asked),
    }


def _read(place: str) -> Conversation:
    data = _json(place)
    if not isinstance(data, dict):
        raise DataError(f'{place}: an object {{"messages": [...]}} is wanted, not {type(data).__name__}')
    if "messages" not in data:
        raise DataError(f'{place} has no "messages"; it has {", ".join(data) or "nothing"}')
    try:
        conversation = conversation_from_openai(data["messages"], data.get("tools"))
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    if not conversation.messages:
        raise DataError(f"{place}: messages is empty")
    return conversation


def _json(place: str) -> Any:
    try:
        text = sys.stdin.read() if place == "-" else Path(place).read_text(encoding="utf-8-sig")
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise DataError(f"{place}: cannot be read: {error.strerror}") from error
