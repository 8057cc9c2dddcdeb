"""How many questions a model folder answers exactly, asked through plain transformers.

Does not know hone: what it scores is what anybody who downloads the folder would get.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

HELDBACK = Path(__file__).resolve().parent / "data" / "heldback.json"
LONGEST_ANSWER, AT_ONCE = 40, 64


def ask(folder: Path, questions: list[str]) -> list[str]:
    """The likeliest answer to each question, each a conversation of its own."""
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers: list[str] = []
    for start in range(0, len(questions), AT_ONCE):
        chats = [[{"role": "user", "content": question}] for question in questions[start : start + AT_ONCE]]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=LONGEST_ANSWER)
        answers += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def score(folder: Path, file: Path = HELDBACK) -> tuple[int, int]:
    """(answered exactly, asked) over the rows of `file`."""
    rows = json.loads(file.read_text(encoding="utf-8"))
    answers = ask(folder, [row["question"] for row in rows])
    return sum(answer.strip() == row["answer"] for answer, row in zip(answers, rows, strict=True)), len(rows)


if __name__ == "__main__":
    right, asked = score(Path(sys.argv[1]))
    print(f"{right}/{asked}")
