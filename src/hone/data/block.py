"""Block: some examples as the columns in which the token cache keeps them, so that whoever encodes them hands over few arrays.

Does not know files, nor what stands before these examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hone.chat.encoded import IGNORE, Example
from hone.data.media import written_down

COLUMNS = {
    "ids": "uint16", "learned": "uint8", "offsets": "int64", "firsts": "int64", "rows": "int64", "trained": "int32",
    "values": "float32", "notes": "uint8", "note_ends": "int64", "media": "uint8", "media_ends": "int64",
}  # fmt: skip
"""ids (uint32 where 16 bits do not do), learned (1 where the token is trained): a value a token.

firsts (its first sequence), rows (in the source), trained (tokens), values, note_ends: a value an example. offsets, media_ends: a
value a sequence. notes, media: UTF-8."""
ENDS = ("offsets", "firsts", "note_ends", "media_ends")
"""Columns that count on from example to example: each has one value more, a zero before the first."""


@dataclass(frozen=True)
class Block:
    """columns: those of COLUMNS, each in its type; ENDS count from the block's own start, without their zero."""

    columns: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, examples: Sequence[Example], rows: Sequence[int]) -> Block:
        """rows: the row of the source that each example came from."""
        sequences = [sequence for example in examples for sequence in example.sequences]
        ids = np.concatenate([_NOTHING, *(sequence.ids for sequence in sequences)])
        labels = np.concatenate([_NOTHING, *(sequence.labels for sequence in sequences)])
        assert int(ids.min(initial=0)) >= 0, "a negative token id"
        notes = [example.note.encode("utf-8") for example in examples]
        media = [written_down(sequence.shown.parts).encode("utf-8") for sequence in sequences]
        wide = int(ids.max(initial=0)) > np.iinfo(np.uint16).max
        found = {
            "ids": ids.astype(np.uint32 if wide else np.uint16),
            "learned": labels != IGNORE,
            "offsets": np.cumsum([len(sequence) for sequence in sequences]),
            "firsts": np.cumsum([len(example.sequences) for example in examples]),
            "rows": rows,
            "trained": [example.num_trained for example in examples],
            "values": [example.value for example in examples],
            "notes": np.frombuffer(b"".join(notes), np.uint8),
            "note_ends": np.cumsum([len(note) for note in notes]),
            "media": np.frombuffer(b"".join(media), np.uint8),
            "media_ends": np.cumsum([len(one) for one in media]),
        }
        return cls({name: np.asarray(values, None if name == "ids" else COLUMNS[name]) for name, values in found.items()})

    def __len__(self) -> int:
        return len(self.columns["rows"])


_NOTHING = np.zeros(0, np.int32)
