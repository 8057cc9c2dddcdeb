"""Tests on data that nobody here wrote: LLaMA-Factory's demo sets, messy alpaca sets, ShareGPT, OpenAI messages, GSM8K."""

from __future__ import annotations

import pytest

from hone.data.build import build_data
from hone.data.sample import Dialog, Passage
from hone.errors import DataError
from tests.data.plain import PlainCodec, PlainObjective, only, settings

FACTORY = "llamafactory/dataset_info.json"


@pytest.fixture
def build(shared, tmp_path):
    def one(name, *, entry=None, sample=Dialog, **changes):
        folder = {name: {**entry, "file_name": str(shared / entry["file_name"])}} if entry else str(shared / "llamafactory")
        data = settings(tmp_path, dataset_dir=folder, **{"cutoff_len": 100_000, **changes})
        return build_data(data, PlainObjective(sample), PlainCodec(), names=(name,), seed=1)

    return one


@pytest.mark.parametrize(
    ("name", "rows", "duplicates", "placeholders"),
    [
        ("alpaca_en_demo", 999, 14, 0),
        ("alpaca_zh_demo", 1000, 8, 0),
        ("identity", 91, 0, 85),
        ("glaive_toolcall_en_demo", 300, 35, 0),
    ],
)
def test_llamafactorys_demo_sets(build, name, rows, duplicates, placeholders):
    report = build(name).report.sets[0]
    assert (report.read, report.kept, report.duplicates, report.placeholders) == (rows, rows, duplicates, placeholders)


def test_wiki_demo_is_learned_whole(build):
    tokens = build("wiki_demo", sample=Passage, cutoff_len=2048)
    report = tokens.report.sets[0]
    assert (report.read, report.kept, report.truncated) == (30, 30, 0)
    whole = build("wiki_demo", sample=Passage, cutoff_len=1_000_000)
    assert tokens.trained.sum() == whole.trained.sum() and tokens.lengths.max() == 2048


@pytest.mark.parametrize(
    ("file", "rows", "empty"),
    [
        ("alpaca_zh_machine_translated_rows_0-2999.json", 3000, [284, 1223, 1347, 1736]),
        ("code_alpaca_rows_0-1199.json", 1200, [237]),
        ("stanford_alpaca_en_first335.json", 335, [284]),
    ],
)
def test_messy_alpaca_sets_name_their_empty_answers(build, file, rows, empty):
    report = build("messy", entry={"file_name": f"messy/{file}"}).report.sets[0]
    assert (report.read, report.kept) == (rows, rows - len(empty))
    [refusal] = report.refused
    assert refusal.reason == "empty answer" and [row for row, _ in refusal.rows] == empty


def test_other_sets_through_their_columns(build):
    gsm8k = {"file_name": "gsm8k/train_rows_0-999.jsonl", "columns": {"prompt": "question", "response": "answer"}}
    assert build("gsm8k", entry=gsm8k).report.sets[0].kept == 1000
    tools = {
        "file_name": "messy/gpteacher_toolformer_rows_0-799.json",
        "columns": {"prompt": "instruction", "query": "input", "response": "response"},
    }
    assert build("toolformer", entry=tools).report.sets[0].kept == 800
    with pytest.raises(DataError, match='refused 800: no column "output"'):
        build("toolformer", entry={"file_name": tools["file_name"]})


def test_conversations(build):
    talks = {"file_name": "sharegpt/fastchat_dummy_conversation.json", "formatting": "sharegpt"}
    assert build("fastchat", entry=talks).report.sets[0].kept == 500
    long = {"file_name": "sharegpt/axolotl_conversation.json", "formatting": "sharegpt"}
    split = build("long", entry=long, cutoff_len=2000, overlong="split").report.sets[0]
    assert (split.read, split.split) == (1, 1) and split.sequences > 3
    openai = {"file_name": "openai_messages/toy_chat_fine_tuning.jsonl", "formatting": "openai"}
    assert build("toy", entry=openai).report.sets[0].kept == 5


def test_sets_that_cannot_be_learned_from_say_why(build):
    for name, why in (
        ("dpo_en_demo", "chosen and a rejected answer.*stage: dpo"),
        ("kto_en_demo", "kto_tag in its entry.*stage: kto"),
    ):
        with pytest.raises(DataError, match=why):
            build(name)
    with pytest.raises(DataError, match="there is no file .*c4_demo.jsonl"):  # noqa: RUF043
        build("c4_demo", sample=Passage)


def test_a_real_codec_cuts_real_rows(build, shared, tmp_path):
    """Llama 3.1's tokenizer and format: every sequence fits, keeps the answer's header, and ends as it was taught to."""
    from transformers import AutoTokenizer

    from hone.chat.codec import build_codec
    from hone.config.chat import ChatConfig

    codec = build_codec(ChatConfig(template="llama3"), AutoTokenizer.from_pretrained(shared / "tokenizers" / "llama-3.1"))
    header = codec.tokenizer.encode("<|start_header_id|>assistant<|end_header_id|>\n\n", add_special_tokens=False)
    for overlong in ("truncate_right", "truncate_left", "split"):
        data = settings(tmp_path, dataset_dir=str(shared / "llamafactory"), cutoff_len=200, overlong=overlong, max_samples=60)
        names = ("alpaca_en_demo", "glaive_toolcall_en_demo")
        tokens = build_data(data, PlainObjective(), codec, names=names, seed=1)
        assert tokens.lengths.max() <= 200 and tokens.report.sets[0].truncated > 10
        for index in range(len(tokens)):
            one = only(tokens[index])
            starts = [at for at in range(1, len(one)) if one.labels[at] >= 0 > one.labels[at - 1]]
            ends = [at for at in range(len(one)) if one.labels[at] >= 0 and (at + 1 == len(one) or one.labels[at + 1] < 0)]
            assert starts and all(one.ids[at - len(header) : at].tolist() == header for at in starts)
            assert all(one.ids[at] in codec.stop_ids for at in ends)
