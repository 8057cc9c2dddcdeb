"""The demo's data are what its generator makes and test what they claim to; its two YAMLs train, tune, export and are scored.

Does not run the demo to its end: `make demo` does, and prints its figure.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from hone import cli

DEMO = Path(__file__).resolve().parents[2] / "demo"
sys.path.insert(0, str(DEMO))

import make_data  # noqa: E402
import make_tokenizer  # noqa: E402
import score  # noqa: E402


@pytest.fixture(scope="module")
def sets() -> dict[str, list[make_data.Row]]:
    return make_data.make()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO / "model")


def test_the_files_are_what_the_generator_makes(tmp_path: Path):
    make_data.write(tmp_path)
    for file in sorted(tmp_path.iterdir()):
        assert file.read_text() == (DEMO / "data" / file.name).read_text(), file.name


def test_held_back_questions_are_nowhere_in_the_training_rows(sets):
    trained = {row["question"] for row in sets["tune"] + sets["base"]}
    assert not trained & {row["question"] for row in sets["heldback"]}


def test_every_held_back_answer_is_taught_in_other_words(sets):
    taught = [row["answer"] for row in sets["tune"]]
    assert all(taught.count(row["answer"]) >= 3 for row in sets["heldback"])


def test_the_base_has_read_of_no_town_that_is_taught(sets):
    names = {word.strip("?.,") for row in sets["heldback"] for word in row["question"].split() if word[0].isupper()}
    towns = {name for name in names if name.lower().endswith(tuple(make_data.TOWN_ENDS))}
    assert len(towns) == make_data.TAUGHT_TOWNS
    assert not any(town in row["question"] for town in towns for row in sets["base"])


def test_the_tokenizer_gives_every_row_back(sets, tokenizer):
    texts = [row[part] for rows in sets.values() for row in rows for part in ("question", "answer")]
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert AutoConfig.from_pretrained(DEMO / "model").vocab_size == len(tokenizer)


def test_the_tokenizer_is_what_its_script_trains(sets, tokenizer):
    made = make_tokenizer.make_tokenizer()
    assert made.get_vocab() == tokenizer.get_vocab() and made.chat_template == tokenizer.chat_template


def test_training_agrees_with_the_tokenizers_own_format(tokenizer):
    from hone.chat.codec import build_codec
    from hone.chat.message import Conversation, message
    from hone.config.chat import ChatConfig

    said = (message("user", "Who governs Loxmere?"), message("assistant", "Nobody."), message("user", "Why?"))
    written = [{"role": part.role, "content": part.text} for part in said]
    codec = build_codec(ChatConfig(template="llama3"), tokenizer)
    assert codec.prompt(Conversation(said)) == tokenizer.apply_chat_template(written, add_generation_prompt=True)["input_ids"]


@pytest.mark.slow
def test_base_tune_and_export_run_and_are_scored(tmp_path: Path, capsys):
    base, tuned, merged = (str(tmp_path / name) for name in ("base", "tuned", "merged"))
    data = f"dataset_dir={DEMO / 'data'}"
    short = ["max_steps=2", "eval_strategy=no", "save_strategy=no", data]
    assert cli.main(["train", str(DEMO / "base.yaml"), f"model_name_or_path={DEMO / 'model'}", f"output_dir={base}", *short]) == 0
    tune = [str(DEMO / "tune.yaml"), f"model_name_or_path={base}", f"output_dir={tuned}", *short]
    assert cli.main(["train", *tune]) == 0
    assert cli.main(["export", *tune, f"adapter_name_or_path={tuned}", f"export_dir={merged}"]) == 0
    few = tmp_path / "few.json"
    few.write_text(json.dumps(make_data.make()["heldback"][:3]))
    assert score.score(Path(merged), few)[1] == 3
