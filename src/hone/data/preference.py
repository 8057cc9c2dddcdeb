"""Rows that say which answers are better: pairs, rated answers, and tasks that the policy answers itself.

Does not know templates, files, or what is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hone.chat.message import Conversation, Message
from hone.data.alpaca import alpaca_question
from hone.data.catalog import DatasetSpec
from hone.data.columns import RowError, answer, missing_column
from hone.data.sample import Pair, Rated, Task
from hone.data.sharegpt import one_message, openai, sharegpt

_READERS: dict[str, Callable[[Mapping[str, Any], DatasetSpec], Conversation]] = {"sharegpt": sharegpt, "openai": openai}


def pair(row: Mapping[str, Any], spec: DatasetSpec) -> Pair:
    """The row's question with its chosen and its rejected answer: texts (alpaca), messages, or whole lists of messages."""
    sides = {name: _side(row, spec, name) for name in ("chosen", "rejected")}
    if all(isinstance(side, list) for side in sides.values()):
        talks = {name: _talk(side, row, spec) for name, side in sides.items()}
        chosen, rejected = talks["chosen"], talks["rejected"]
    else:
        question = _question(row, spec)
        chosen, rejected = (_answered(question, _answer(side, spec, name)) for name, side in sides.items())
    if chosen.messages[:-1] != rejected.messages[:-1]:
        raise RowError("the two answers are to different questions", "they differ before their last message")
    for name, talk in (("chosen", chosen), ("rejected", rejected)):
        if not talk.messages or talk.messages[-1].role != "assistant":
            raise RowError(f"{name} does not end with an answer")
    if chosen.messages[-1].parts == rejected.messages[-1].parts:
        raise RowError("the chosen and the rejected answer are equal", f"both read {chosen.messages[-1].text[:60]!r}")
    return Pair(chosen, rejected)


def rated(row: Mapping[str, Any], spec: DatasetSpec, conversation: Conversation) -> Rated:
    """The conversation, and whether column kto_tag calls its last answer good."""
    column = spec.columns.kto_tag
    assert column is not None, "checked before rows are read"
    if column not in row:
        raise missing_column(row, "kto_tag", column)
    tag = row[column]
    if not isinstance(tag, bool):
        raise RowError(f'column "{column}" is not true or false', f"seen {tag!r}")
    if not conversation.messages or conversation.messages[-1].role != "assistant":
        raise RowError("does not end with an answer")
    return Rated(conversation, tag)


def task(row: Mapping[str, Any], spec: DatasetSpec) -> Task:
    """The row's conversation up to its last answer, and that answer as the reference; rows without one are tasks too."""
    if spec.shape == "alpaca":
        question = alpaca_question(row, spec)
        response = row.get(spec.columns.response) if spec.columns.response else None
        reference = response if isinstance(response, str) else ""
    else:
        whole = _READERS[spec.shape](row, spec)
        last = whole.messages[-1] if whole.messages else None
        answered = last is not None and last.role == "assistant"
        question = replace(whole, messages=whole.messages[:-1]) if answered else whole
        reference = last.text if last is not None and answered else ""
    if not question.messages or question.messages[-1].role == "assistant":
        raise RowError("no question to answer", "the conversation holds no message before its last answer")
    named = {name for name in vars(spec.columns).values() if name}
    return Task(question, reference, {name: value for name, value in row.items() if name not in named})


def _side(row: Mapping[str, Any], spec: DatasetSpec, name: str) -> Any:
    column = vars(spec.columns)[name]
    if not column or column not in row:
        raise missing_column(row, name, column or name)
    return row[column]


def _question(row: Mapping[str, Any], spec: DatasetSpec) -> Conversation:
    return alpaca_question(row, spec) if spec.shape == "alpaca" else _READERS[spec.shape](row, spec)


def _answered(question: Conversation, said: Message) -> Conversation:
    if question.messages and question.messages[-1].role == "assistant":
        raise RowError("the question ends with an answer", "chosen and rejected are a further one; end with a user's message")
    return replace(question, messages=(*question.messages, said))


def _answer(side: Any, spec: DatasetSpec, name: str) -> Message:
    if isinstance(side, str):
        return answer(side)
    if isinstance(side, Mapping) and spec.shape != "alpaca":
        said = one_message(side, spec)
        if said.role != "assistant":
            raise RowError(f"{name} is not an assistant's message", f"its role is {said.role}")
        return said
    raise RowError(f"{name} is not an answer", f"seen {type(side).__name__}: {str(side)[:60]}")


def _talk(messages: list[Any], row: Mapping[str, Any], spec: DatasetSpec) -> Conversation:
    """A whole conversation that stands in the column chosen or rejected, after the row's own messages where it has some."""
    if spec.shape == "alpaca":
        raise RowError("chosen and rejected are lists", 'write "formatting": "sharegpt" or "openai" for lists of messages')
    column = spec.columns.messages or "messages"
    before = row.get(column)
    return _READERS[spec.shape]({**row, column: [*(before if isinstance(before, list) else []), *messages]}, spec)
