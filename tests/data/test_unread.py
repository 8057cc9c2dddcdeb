"""A column that a row fills and the entry does not name is not learned, as in LLaMA-Factory; here the report says so."""

from __future__ import annotations

import json

import pytest

from hone.chat.codec import build_codec
from hone.config.chat import ChatConfig
from hone.config.data import DataConfig
from hone.config.objective import Sft
from hone.data.build import build_data
from hone.objectives.build import build_objective


def report_of(tmp_path, tokenizer, entry: dict, given: list | None = None) -> str:
    rows = given or [
        {"instruction": f"Say {n}", "input": "now", "output": "Yes", "system": "Be short." if n % 2 else ""} for n in range(6)
    ]
    if entry.get("formatting") and not given:
        talk = [{"from": "human", "value": "Say"}, {"from": "gpt", "value": "Yes"}]
        rows = [{**row, "conversations": talk} for row in rows]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    data = DataConfig(
        dataset=("rows",),
        dataset_dir={"rows": {"file_name": str(tmp_path / "rows.json"), **entry}},
        tokenized_path=str(tmp_path / "c"),
    )
    codec = build_codec(ChatConfig(), tokenizer)
    return "\n".join(build_data(data, build_objective(Sft()), codec, names=("rows",), seed=0).report.lines())


@pytest.mark.parametrize(
    ("entry", "unread"),
    [
        ({}, ['3 rows fill the column "system"']),
        ({"columns": {"prompt": "instruction", "response": "output", "system": "system"}}, ['6 rows fill the column "input"']),
        ({"columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}}, []),
        ({"formatting": "sharegpt"}, ['6 rows fill the column "input"', '3 rows fill the column "system"']),
    ],
)
def test_filled_columns_that_nobody_named_are_told(entry, unread, tmp_path, tiny_tokenizer):
    said = report_of(tmp_path, tiny_tokenizer, entry)
    assert said.count("which is not read") == len(unread)
    for text in unread:
        assert text in said


def test_answers_that_only_a_preference_learns_from_are_told_in_sft(tmp_path, tiny_tokenizer):
    talk = [{"from": "human", "value": "Say"}, {"from": "gpt", "value": "Yes"}]
    rows = [{"conversations": talk, "chosen": {"from": "gpt", "value": "Oh"}, "rejected": {"from": "gpt", "value": "No"}}] * 2
    said = report_of(tmp_path, tiny_tokenizer, {"formatting": "sharegpt"}, rows)
    assert '2 rows fill the column "chosen", which is not read; if it matters, train with stage: dpo on an entry' in said
    assert '2 rows fill the column "rejected"' in said and '"conversations"' not in said
