"""Case: one answer as a reward sees it.

Does not know rewards, models or tokens beyond their number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hone.chat.message import Conversation
from hone.chat.openai import to_openai


@dataclass(frozen=True)
class Case:
    """completion: the answer's text, thoughts included; answer: the reference's text, "" where the row has none.

    prompt: the messages that were answered, as OpenAI writes them; columns: the row's columns by name; ids: the drawn tokens;
    place: of the row, in words ("gsm8k row 17").
    """

    completion: str
    answer: str = ""
    prompt: Sequence[Mapping[str, Any]] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    ids: Sequence[int] = ()
    place: str = ""


def write_note(conversation: Conversation, answer: str, columns: Mapping[str, Any]) -> str:
    """What a reward must know of a row, as JSON text that goes with its tokens. Values that JSON has no word for become text."""
    note = {"answer": answer, "prompt": to_openai(conversation), "columns": dict(columns)}
    return json.dumps(note, ensure_ascii=False, default=str)


def answer_of(note: str) -> str:
    """The reference's text that `write_note` wrote down, "" where there is none."""
    return json.loads(note)["answer"]


def read_note(note: str, *, completion: str, ids: Sequence[int], place: str) -> Case:
    """The Case of an answer to the row that `write_note` wrote down."""
    found = json.loads(note)
    return Case(completion, found["answer"], found["prompt"], found["columns"], tuple(ids), place)
