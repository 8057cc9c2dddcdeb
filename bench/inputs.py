"""What every run of the bench is given: a random model with a real tokenizer, and rows of LLaMA-Factory's demos as files.

Does not know who reads them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TEMPLATE = (
    "{% for m in messages if m.content %}{{ '<s>' + m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>' }}{% endif %}"
)
"""A format in which each message stands between two control tokens: no piece of text touches another, so every system finds the
same ids, whether it encodes a conversation whole or in parts. A real Llama-2 prompt ends in words, where they differ."""


def make(folder: Path, told: dict[str, Any], data: Path = DATA) -> dict[str, Any]:
    """FOLDER/model and FOLDER/data; where they are, and how many tokens each row of each data set has."""
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / "llama-2")
    tokenizer.chat_template, tokenizer.pad_token = TEMPLATE, "<unk>"
    make_model(folder / "model", LlamaConfig(vocab_size=len(tokenizer), **told["model"]), tokenizer)
    (folder / "data").mkdir()
    longest = told["data"]["longest"]
    demo = json.loads((data / "llamafactory" / "alpaca_en_demo.json").read_text())
    lengths = [tokens_of(tokenizer, row) for row in demo]
    pairs = json.loads((data / "llamafactory" / "dpo_en_demo.json").read_text())
    fit = [(row, tokens) for row in pairs if (tokens := tokens_of_pair(tokenizer, row))[0] <= longest]
    long = [(row, tokens) for row, tokens in zip(demo, lengths, strict=True) if tokens >= told["data"]["long_from"]]
    rows = {"short": demo, "long": [row for row, _ in long], "pairs": [row for row, _ in fit]}
    tokens = {"short": lengths, "long": [length for _, length in long], "pairs": [both for _, (_, both) in fit]}
    write(folder / "data", rows)
    return {
        "model": str(folder / "model"), "data": str(folder / "data"), "vocabulary": len(tokenizer), "longest": longest,
        "pad_id": tokenizer.pad_token_id, "tokens": tokens,
    }  # fmt: skip


def make_model(folder: Path, config: Any, tokenizer: Any) -> None:
    """A model of random weights in fp32."""
    torch.manual_seed(0)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """A file of each set, and LLaMA-Factory's catalog of them."""
    alpaca = {"columns": {"prompt": "instruction", "query": "input", "response": "output"}}
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    ranked = {"ranking": True, "formatting": "sharegpt", "columns": columns}
    catalog = {name: {"file_name": f"{name}.json", **(ranked if name == "pairs" else alpaca)} for name in rows}
    (folder / "dataset_info.json").write_text(json.dumps(catalog))
    for name, found in rows.items():
        (folder / f"{name}.json").write_text(json.dumps(found))


def multiply(folder: Path, inputs: dict[str, Any], copies: int) -> dict[str, Any]:
    """The inputs with a data set "many": the short one `copies` times, each row another, in FOLDER."""
    demo = json.loads(Path(inputs["data"], "short.json").read_text())
    rows = [{**row, "instruction": f"{number}. {row['instruction']}"} for number in range(copies) for row in demo]
    folder.mkdir()
    write(folder, {"many": rows})
    return inputs | {"data": str(folder), "tokens": {"many": [1] * len(rows)}}


def tokens_of(tokenizer: Any, row: dict[str, str]) -> int:
    """Of a row of alpaca's."""
    asked = "\n".join(part for part in (row["instruction"], row["input"]) if part)
    return _tokens(tokenizer, [asked, row["output"]])


def tokens_of_pair(tokenizer: Any, row: dict[str, Any]) -> tuple[int, int]:
    """The longer of the two conversations, and both."""
    said = [turn["value"] for turn in row["conversations"]]
    both = [_tokens(tokenizer, [*said, row[side]["value"]]) for side in ("chosen", "rejected")]
    return max(both), sum(both)


def _tokens(tokenizer: Any, texts: list[str]) -> int:
    return sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 2 for text in texts)
