"""The alpaca shape: a row is a question (prompt and query), an answer, and perhaps the exchanges before them.

Does not know other shapes, files or templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hone.chat.message import Conversation, Message, message
from hone.data.catalog import DatasetSpec
from hone.data.columns import RowError, answer, list_of, missing_column, read_tools, text_of


def alpaca(row: Mapping[str, Any], spec: DatasetSpec) -> Conversation:
    """`{"instruction": "Add.", "input": "1 2", "output": "3"}`, with the entry's own names of columns."""
    columns = spec.columns
    if not columns.response or columns.response not in row:
        raise missing_column(row, "response", columns.response or "response")
    question = alpaca_question(row, spec)
    return Conversation((*question.messages, answer(text_of(row, columns.response))), question.tools)


def alpaca_question(row: Mapping[str, Any], spec: DatasetSpec) -> Conversation:
    """The same without its answer."""
    columns = spec.columns
    messages: list[Message] = []
    system = text_of(row, columns.system)
    if system:
        messages.append(message("system", system))
    if columns.history and row.get(columns.history):
        messages.extend(_history(list_of(row, columns.history)))
    messages.append(message("user", user_text(row, spec)))
    return Conversation(tuple(messages), read_tools(row, columns.tools))


def _history(pairs: list[Any]) -> list[Message]:
    messages = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowError("history is not a list of [question, answer] pairs", f"seen {json.dumps(pair, default=str)[:80]}")
        messages += [message("user", pair[0]), answer(pair[1])]
    return messages


def user_text(row: Mapping[str, Any], spec: DatasetSpec) -> str:
    """prompt, a newline, query: whichever are there. An empty question is allowed: some sets hold answers alone."""
    prompt, query = spec.columns.prompt, spec.columns.query
    if (prompt or query) and not any(column in row for column in (prompt, query) if column):
        raise missing_column(row, "prompt", prompt, query)
    return "\n".join(text for text in (text_of(row, prompt), text_of(row, query)) if text)
