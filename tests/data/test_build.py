"""Tests of building: rows to a TokenSet with its report, mixtures, what is held back, what stops the run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hone.data.build import TokenSet, build_data, first_samples, split_validation
from hone.data.sample import Dialog, Pair, Passage
from hone.errors import DataError
from tests.data.plain import PlainCodec, PlainObjective, alpaca_rows, only, settings, spelled, write_set


def build(folder, *names, sample=Dialog, learn="answers", codec=None, seed=1, **changes):
    return build_data(
        settings(folder, **changes), PlainObjective(sample, learn), codec or PlainCodec(), names=names or ("toy",), seed=seed
    )


def texts(tokens):
    return [spelled(only(tokens[index])) for index in range(len(tokens))]


def test_an_alpaca_file_becomes_sequences(tmp_path):
    write_set(tmp_path, alpaca_rows(3))
    tokens = build(tmp_path)
    assert texts(tokens) == [f"^Uask {n}.Asay {n}." for n in range(3)]
    assert tokens.lengths.tolist() == [15, 15, 15] and tokens.trained.tolist() == [6, 6, 6]
    assert tokens.lengths.dtype == tokens.trained.dtype == np.int32
    assert [tokens.origin(index) for index in range(3)] == [("toy", 0), ("toy", 1), ("toy", 2)]


def test_the_report_counts_every_row(tmp_path):
    rows = alpaca_rows(20)
    rows[3]["output"] = ""
    rows[5]["output"] = "  "
    rows[7]["instruction"] = "unspeakable"
    rows[8] = rows[9]
    rows[10] = {"question": "?"}
    rows[11]["output"] = "I am {{name}}"
    rows[12]["output"] = "x" * 100
    write_set(tmp_path, rows)
    tokens = build(tmp_path, cutoff_len=40, max_bad_rows=0.5)
    report = tokens.report.sets[0]
    assert (report.read, report.kept, report.num_refused, report.truncated, report.duplicates, report.placeholders) == (
        20,
        16,
        4,
        1,
        1,
        1,
    )
    assert {refusal.reason: [row for row, _ in refusal.rows] for refusal in report.refused} == {
        "empty answer": [3, 5], "the template cannot render it": [7], 'no column "output"': [10],
    }  # fmt: skip
    assert report.longest == 111 and report.length["max"] == 40
    assert report.tokens == tokens.lengths.sum() and report.trained_tokens == tokens.trained.sum()
    assert tokens.origin(3) == ("toy", 4)
    lines = "\n".join(tokens.report.lines())
    assert "toy: 20 rows read, 16 kept, 4 refused" in lines
    assert "refused 2: empty answer: row 3, row 5" in lines
    assert "row 7 (this word cannot be written)" in lines
    assert "1 rows hold {{name}} or {{author}}" in lines
    assert json.loads(json.dumps(tokens.report.to_dict()))["sets"][0]["read"] == 20


def test_examples_are_called_what_they_are(tmp_path):
    rows = [{"instruction": "q", "chosen": "good", "rejected": "b" * number} for number in range(1, 4)]
    write_set(tmp_path, rows, ranking=True, columns={"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"})
    lines = build(tmp_path, sample=Pair).report.lines()
    assert any(line.startswith("  3 pairs, ") for line in lines), lines


def test_answers_that_are_cut_and_questions_that_are_empty_are_counted(tmp_path):
    long_question, long_answer = {"instruction": "q" * 50, "output": "a"}, {"instruction": "q", "output": "a" * 50}
    write_set(tmp_path, [long_question, long_answer, {"instruction": None, "output": "a"}, *alpaca_rows(2)])
    report = build(tmp_path, cutoff_len=20).report.sets[0]
    assert (report.truncated, report.answers_cut, report.unasked) == (2, 1, 1)
    lines = "\n".join(report.lines())
    assert "2 truncated (1 of them in their answers)" in lines
    assert "1 rows ask nothing: a question is empty or null" in lines
    passages = build(tmp_path, sample=Passage, cutoff_len=6, packing=False, max_bad_rows=0.5).report.sets[0]
    assert (passages.truncated, passages.answers_cut, passages.unasked) == (3, 0, 0)


def test_too_many_bad_rows_stop_the_run_with_the_reasons(tmp_path):
    rows = alpaca_rows(10)
    rows[2]["output"] = rows[4]["output"] = ""
    write_set(tmp_path, rows)
    with pytest.raises(DataError) as caught:
        build(tmp_path)
    assert "20.0% of the rows of toy cannot be used; max_bad_rows allows 10.0%" in str(caught.value)
    assert "refused 2: empty answer: row 2, row 4" in str(caught.value)
    assert len(build(tmp_path, max_bad_rows=0.2)) == 8


def test_wrong_columns_stop_after_the_first_chunk(tmp_path):
    write_set(tmp_path, [{"question": "?", "answer": "!"}] * 50)
    with pytest.raises(DataError, match='toy: 10 rows read, 0 kept, 10 refused\n  refused 10: no column "output"'):
        build(tmp_path, preprocessing_batch_size=10)
    with pytest.raises(DataError, match="no row of toy is left to learn from"):
        build(tmp_path, preprocessing_batch_size=10, max_bad_rows=1.0)


def test_policies_reach_the_rows(tmp_path):
    write_set(tmp_path, [{"instruction": "q" * 50, "output": "a"}, *alpaca_rows(2)])
    assert build(tmp_path, cutoff_len=20).lengths.tolist() == [20, 15, 15]
    dropped = build(tmp_path, cutoff_len=20, overlong="drop")
    assert len(dropped) == 2 and dropped.report.sets[0].dropped == 1
    with pytest.raises(DataError, match="toy, row 0: a row has 56 tokens, cutoff_len is 20"):
        build(tmp_path, cutoff_len=20, overlong="error")


def test_pretraining_splits_long_texts_unless_told_otherwise(tmp_path):
    (tmp_path / "text.txt").write_text("abcdefgh\n\nxy\n")
    (tmp_path / "dataset_info.json").write_text('{"toy": {"file_name": "text.txt", "columns": {"prompt": "text"}}}')
    assert texts(build(tmp_path, sample=Passage, cutoff_len=6)) == ["^abcde", "efgh.", "^xy."]
    assert [build(tmp_path, sample=Passage, cutoff_len=6).origin(index)[1] for index in range(3)] == [0, 0, 1]
    assert texts(build(tmp_path, sample=Passage, cutoff_len=6, packing=False)) == ["^abcde", "^xy."]
    assert texts(build(tmp_path, sample=Passage, cutoff_len=6, overlong="truncate_left")) == ["defgh.", "^xy."]


def test_chunks_change_nothing(tmp_path):
    write_set(tmp_path, [*alpaca_rows(7), {"instruction": "unspeakable", "output": "a"}])
    whole = texts(build(tmp_path, max_bad_rows=0.5))
    assert texts(build(tmp_path, max_bad_rows=0.5, preprocessing_batch_size=3, overwrite_cache=True)) == whole
    assert texts(build(tmp_path, max_bad_rows=0.5, streaming=True, overwrite_cache=True)) == whole


def test_max_samples_takes_the_first_rows_of_each_set(tmp_path):
    write_set(tmp_path, alpaca_rows(5))
    write_set(tmp_path, alpaca_rows(5, start=50), name="more")
    tokens = build(tmp_path, "toy", "more", max_samples=2)
    assert [tokens.origin(index) for index in range(len(tokens))] == [("toy", 0), ("toy", 1), ("more", 0), ("more", 1)]
    assert tokens.report.sets[0].read == 2


def test_num_samples_draws_at_random_and_repeats_where_it_must(tmp_path):
    write_set(tmp_path, alpaca_rows(5), num_samples=3)
    drawn = build(tmp_path)
    assert len(set(texts(drawn))) == 3
    assert texts(drawn) == texts(build(tmp_path)) and texts(drawn) != texts(build(tmp_path, seed=2))
    write_set(tmp_path, alpaca_rows(5), num_samples=12)
    repeated = build(tmp_path)
    assert len(repeated) == 12 and len(set(texts(repeated))) == 5
    assert len(build(tmp_path, max_samples=4)) == 4
    assert "together: 12 sequences" in "\n".join(repeated.report.lines())


def test_sets_are_interleaved_without_copying(tmp_path):
    write_set(tmp_path, alpaca_rows(2))
    write_set(tmp_path, alpaca_rows(3, start=50), name="more")
    tokens = build(tmp_path, "toy", "more", mix_strategy="interleave_over")
    assert [tokens.origin(index) for index in range(6)] == [
        ("toy", 0),
        ("more", 0),
        ("toy", 1),
        ("more", 1),
        ("toy", 0),
        ("more", 2),
    ]
    assert spelled(only(tokens[5])) == "^Uask 52.Asay 52."
    assert texts(tokens)[1::2] == [f"^Uask {n}.Asay {n}." for n in (50, 51, 52)] and len(texts(tokens)[::2]) == 3


def test_validation_rows_are_held_back_by_seed(tmp_path):
    write_set(tmp_path, alpaca_rows(40))
    tokens = build(tmp_path)
    train, held = split_validation(tokens, 0.1, seed=3)
    assert (len(train), len(held)) == (36, 4)
    assert sorted(texts(train) + texts(held)) == sorted(texts(tokens))
    assert texts(held) == texts(split_validation(tokens, 4, seed=3)[1]) != texts(split_validation(tokens, 4, seed=4)[1])
    assert held.lengths.tolist() == [len(held[index]) for index in range(4)]
    for wrong in (1.0, 40, 0.0):
        with pytest.raises(DataError, match="val_size"):
            split_validation(tokens, wrong, seed=3)


def test_parts_and_repeats_of_a_row_are_never_on_both_sides(tmp_path):
    history = [[f"{n}?", "x" * 10] for n in range(6)]
    columns = {"prompt": "instruction", "response": "output", "history": "history"}
    write_set(tmp_path, [{**row, "history": history} for row in alpaca_rows(10)], columns=columns)
    tokens = build(tmp_path, cutoff_len=40, overlong="split")
    assert len(tokens) > 20
    train, held = split_validation(tokens, 0.3, seed=0)
    rows = [{part.origin(index) for index in range(len(part))} for part in (train, held)]
    assert not rows[0] & rows[1] and rows[0] | rows[1] == {("toy", row) for row in range(10)}


def test_first_samples_shows_rows_without_building(tmp_path):
    write_set(tmp_path, [{"instruction": "?", "output": ""}, *alpaca_rows(30)])
    codec = PlainCodec()
    shown = first_samples(settings(tmp_path), PlainObjective(), codec, ("toy",), 2)
    assert [origin for origin, _, _ in shown] == [("toy", 1), ("toy", 2)]
    assert shown[0][1].conversation.messages[0].text == "ask 0" and spelled(only(shown[0][2])) == "^Uask 0.Asay 0."
    assert only(shown[0][2]).pieces and codec.num_encoded < 20
    assert not (tmp_path / "cache").exists()


def test_names_are_checked(tmp_path):
    write_set(tmp_path, alpaca_rows(2))
    with pytest.raises(DataError, match="no data set is named"):
        build_data(settings(tmp_path), PlainObjective(), PlainCodec(), names=(), seed=1)
    with pytest.raises(DataError, match="named twice"):
        build(tmp_path, "toy", "toy")
    with pytest.raises(DataError, match='"tou" is not defined .*did you mean "toy"'):  # noqa: RUF043
        build(tmp_path, "tou")
    assert len(build(tmp_path, str(tmp_path / "toy.json"))) == 2  # a plain file path is a set too


def test_several_processes_write_the_same_entry(tmp_path):
    bad = [{"instruction": "unspeakable", "output": "a"}, {"instruction": "?", "output": ""}, {"instruction": 3, "output": "a"}]
    rows = [*alpaca_rows(9), *bad, *alpaca_rows(30, start=5), *bad[::-1] * 3, {**alpaca_rows(1)[0], "system": "x" * 40}]
    write_set(tmp_path, rows)

    def entry(workers: int) -> tuple[TokenSet, dict[str, bytes]]:
        home = tmp_path / f"{workers}"
        terms = {"preprocessing_num_workers": workers, "preprocessing_batch_size": 30, "tokenized_path": str(home)}
        tokens = build(tmp_path, max_bad_rows=0.5, cutoff_len=15, **terms)
        return tokens, {file.name: file.read_bytes() for file in home.glob("*/*/*.*")}

    alone, files = entry(1)
    (report,) = alone.report.sets
    assert [refused.count for refused in report.refused] == [4, 4, 4] and report.duplicates and report.truncated and report.unread
    for workers in (2, 3):
        together, same = entry(workers)
        assert texts(together) == texts(alone) and together.report == alone.report
        assert same == files and len(files) == 12, "to the last byte"


def test_a_mistake_in_another_process_names_its_row(tmp_path):
    rows = [*alpaca_rows(40), {"instruction": "q" * 90, "output": "a"}]
    write_set(tmp_path, rows)
    with pytest.raises(DataError, match="toy, row 40: a row has"):
        build(tmp_path, preprocessing_num_workers=2, preprocessing_batch_size=5, cutoff_len=50, overlong="error")
