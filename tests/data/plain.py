"""A codec and objectives simple enough to check by eye: one token a character, a header and a stop token a message.

Knows nothing of tokenizers or templates, so the tests of data do not depend on those of chat.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hone.chat.encoded import IGNORE, Encoded, Example, Piece
from hone.chat.message import Conversation, Message, Text, Think, ToolCall, ToolResult
from hone.config.data import DataConfig
from hone.data.sample import Dialog, Pair, Passage, Sample
from hone.errors import TemplateError

BEGIN, STOP = 1, 2
HEADERS = {"system": 3, "user": 4, "assistant": 5, "tool": 6}
FIRST_LETTER = 10


class PlainCodec:
    """`[BEGIN] ([header] letters [STOP])*`; a conversation that says "unspeakable" cannot be written."""

    reader = None

    def __init__(self, fingerprint: str = "plain"):
        self.fingerprint = fingerprint
        self.num_encoded = 0

    def encode(self, conversations: Sequence[Conversation], learn: str = "answers") -> list[Encoded]:
        self.num_encoded += len(conversations)
        return [self._one(conversation, learn) for conversation in conversations]

    def encode_text(self, texts: Sequence[str]) -> list[Encoded]:
        return [
            _joined([([BEGIN], "control", -1, True), (letters(text), "content", 0, True), ([STOP], "control", 0, True)])
            for text in texts
        ]

    def _one(self, conversation: Conversation, learn: str) -> Encoded:
        last = max((i for i, said in enumerate(conversation.messages) if said.role == "assistant"), default=-1)
        runs: list[tuple[list[int], str, int, bool]] = [([BEGIN], "control", -1, learn == "all")]
        if conversation.tools:
            runs.append((letters(json.dumps([dict(tool) for tool in conversation.tools])), "control", -1, learn == "all"))
        for number, said in enumerate(conversation.messages):
            trained = said.role == "assistant" and (learn != "last" or number == last)
            trained = learn == "all" or (trained if said.train is None else said.train)
            if "unspeakable" in said.text:
                raise TemplateError("this word cannot be written")
            runs.append(([HEADERS[said.role]], "control", number, learn == "all"))
            runs.append((letters(written(said)), "content", number, trained))
            runs.append(([STOP], "control", number, trained))
        return _joined(runs)


def letters(text: str) -> list[int]:
    """One id a character."""
    return [FIRST_LETTER + ord(character) for character in text]


def spelled(encoded: Encoded) -> str:
    """The letters of a sequence, ^ for BEGIN, S U A T for headers, . for STOP."""
    signs = {BEGIN: "^", STOP: ".", **{header: role[0].upper() for role, header in HEADERS.items()}}
    return "".join(signs[id] if id in signs else chr(id - FIRST_LETTER) for id in encoded.ids.tolist())


def written(said: Message) -> str:
    """All parts of a message as text."""
    parts = []
    for part in said.parts:
        match part:
            case Text(text):
                parts.append(text)
            case Think(text):
                parts.append(f"({text})")
            case ToolCall(name, arguments):
                parts.append(f"{name}{json.dumps(dict(arguments))}")
            case ToolResult(content):
                parts.append(content)
    return "".join(parts)


def _joined(runs: list[tuple[list[int], str, int, bool]]) -> Encoded:
    ids, labels, pieces = [], [], []
    for tokens, kind, number, trained in runs:
        if tokens:
            pieces.append(Piece(len(ids), len(ids) + len(tokens), kind, number))
        ids += tokens
        labels += tokens if trained else [IGNORE] * len(tokens)
    return Encoded(np.array(ids, np.int32), np.array(labels, np.int32), lambda: tuple(pieces))


class PlainObjective:
    """Learns dialogs (`learn` as in the codec) or passages."""

    def __init__(self, sample: type[Sample] = Dialog, learn: str = "answers"):
        self.sample, self.learn = sample, learn
        self.fingerprint = f"{sample.__name__}:{learn}"
        self.unit = "pairs" if sample is Pair else "sequences"

    def examples(self, sample: Any, codec: PlainCodec) -> list[Any]:
        """Itself, as the plain codec rewrites nothing."""
        return [sample]

    def encode(self, samples: list[Any], codec: PlainCodec) -> list[Example]:
        if self.sample is Passage:
            return [Example((one,)) for one in codec.encode_text([sample.text for sample in samples])]
        if self.sample is Pair:
            return [Example(tuple(codec.encode([sample.chosen, sample.rejected], "last"))) for sample in samples]
        return [Example((one,)) for one in codec.encode([sample.conversation for sample in samples], self.learn)]


def only(example: Example) -> Encoded:
    """The one sequence of an example."""
    (sequence,) = example.sequences
    return sequence


def write_set(folder: Path, rows: list[Any], *, entry: dict[str, Any] | None = None, name: str = "toy", **more: Any) -> None:
    """rows as `name`.json in `folder`, and an entry for it in dataset_info.json beside those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    info = folder / "dataset_info.json"
    known = json.loads(info.read_text(encoding="utf-8")) if info.exists() else {}
    info.write_text(json.dumps({**known, name: {"file_name": f"{name}.json", **(entry or {}), **more}}), encoding="utf-8")


def settings(folder: Path, **changes: Any) -> DataConfig:
    """Settings whose catalog and cache lie in `folder`."""
    return DataConfig(**{"dataset_dir": str(folder), "tokenized_path": str(folder / "cache"), **changes})


def alpaca_rows(count: int, *, start: int = 0) -> list[dict[str, str]]:
    """Rows with different questions and answers."""
    return [{"instruction": f"ask {n}", "input": "", "output": f"say {n}"} for n in range(start, start + count)]
