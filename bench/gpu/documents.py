"""Rows of a wanted number of tokens, out of the texts of LLaMA-Factory's demo: documents, and pairs of answers.

Does not know who reads them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inputs import write
from transformers import AutoTokenizer

ASKED = "Go on."
ROOM = 16
"""Tokens left for the question, the control tokens, and what a cut in the middle of a word costs."""


def make(folder: Path, data: Path, model: Path, *, length: int, rows: int) -> dict[str, list[int]]:
    """FOLDER with the sets "documents" and "pairs", of which half is the question; the tokens of each row, a few too many."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    demo = json.loads((data / "llamafactory" / "alpaca_en_demo.json").read_text())
    text = "\n\n".join(row["output"] for row in demo)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    ends = [0, *(end for _, end in found)]

    def piece(number: int, tokens: int) -> str:
        begin = number * tokens % (len(ends) - tokens)
        return text[ends[begin] : ends[begin + tokens]]

    documents = [{"instruction": ASKED, "input": "", "output": piece(number, length - ROOM)} for number in range(rows)]
    half = (length - ROOM) // 2
    pairs: list[dict[str, Any]] = [
        {
            "conversations": [{"from": "human", "value": piece(3 * number, half)}],
            "chosen": {"from": "gpt", "value": piece(3 * number + 1, half)},
            "rejected": {"from": "gpt", "value": piece(3 * number + 2, half)},
        }
        for number in range(rows)
    ]
    folder.mkdir()
    write(folder, {"documents": documents, "pairs": pairs})
    return {"documents": [length] * rows, "pairs": [2 * length] * rows}
