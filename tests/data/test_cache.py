"""Tests of the token cache: complete entries are found again, broken ones are never trusted, two builders are both right."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import stat
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hone.chat.encoded import IGNORE, Encoded, Example
from hone.data.block import Block
from hone.data.build import build_data
from hone.data.cache import EntryWriter, find_or_build, open_entry
from hone.data.report import Tally
from hone.data.sample import Passage
from tests.data.plain import PlainCodec, PlainObjective, alpaca_rows, settings, write_set


def sequence(ids: list[int], learned: list[int]) -> Example:
    return Example((part(ids, learned),))


def part(ids: list[int], learned: list[int]) -> Encoded:
    labels = [id if keep else IGNORE for id, keep in zip(ids, learned, strict=True)]
    return Encoded(np.array(ids, np.int32), np.array(labels, np.int32))


SEQUENCES = [sequence([5, 6, 7], [0, 1, 1]), sequence([65_535], [1]), sequence([1, 2, 3, 4], [0, 0, 0, 1])]


def write_entry(folder: Path, sequences=SEQUENCES, chunk: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    writer = EntryWriter(folder)
    for start in range(0, len(sequences), chunk):
        writer.append(Block.of(sequences[start : start + chunk], range(start, min(start + chunk, len(sequences)))))
    lengths = np.array([len(one) for one in sequences])
    writer.close(Tally(read=len(sequences), kept=len(sequences)).report("toy", lengths, np.ones(len(sequences)), 0))


def same(entry, sequences) -> bool:
    return len(entry) == len(sequences) and all(
        (entry[i].value, entry[i].note, len(entry[i].sequences)) == (one.value, one.note, len(one.sequences))
        and all(
            a.ids.tolist() == b.ids.tolist() and a.labels.tolist() == b.labels.tolist()
            for a, b in zip(entry[i].sequences, one.sequences, strict=True)
        )
        for i, one in enumerate(sequences)
    )


def test_what_was_written_is_read_back(tmp_path):
    write_entry(tmp_path)
    entry = open_entry(tmp_path)
    assert same(entry, SEQUENCES)
    assert entry.ids.dtype == np.uint16 and entry[0].sequences[0].ids.dtype == entry[0].sequences[0].labels.dtype == np.int32
    assert entry.lengths.tolist() == [3, 1, 4] and entry.trained.tolist() == [2, 0, 1] and entry.rows.tolist() == [0, 1, 2]
    assert entry.report.name == "toy" and entry.report.length["max"] == 4


def test_examples_of_several_sequences_keep_their_number_and_note(tmp_path):
    pair = Example((part([5, 6, 7], [0, 1, 1]), part([5, 8], [0, 1])), 0.5, '{"answer": "sieben \u00e4"}')
    examples = [pair, *SEQUENCES, replace(pair, note="", value=-1.0)]
    write_entry(tmp_path, examples)
    entry = open_entry(tmp_path)
    assert same(entry, examples)
    assert entry.lengths.tolist() == [5, 3, 1, 4, 5] and entry.trained.tolist() == [3, 2, 0, 1, 3]


def test_ids_are_widened_when_16_bits_do_not_do(tmp_path):
    sequences = [*SEQUENCES, sequence([128_255, 3], [1, 0]), sequence([9], [1])]
    write_entry(tmp_path, sequences, chunk=1)
    entry = open_entry(tmp_path)
    assert entry.ids.dtype == np.uint32 and same(entry, sequences)
    assert not (tmp_path / "ids.16").exists()


def test_nothing_at_all_is_an_entry_too(tmp_path):
    write_entry(tmp_path, [])
    assert len(open_entry(tmp_path)) == 0


@pytest.mark.parametrize("harm", ["flip", "shorten", "remove", "manifest", "format", "unfinished"])
def test_a_broken_entry_is_built_again(tmp_path, harm, capsys):
    entry, found = find_or_build(tmp_path, "abcd", write_entry, overwrite=False)
    assert not found and same(entry, SEQUENCES)
    folder = tmp_path / "ab" / "abcd"
    del entry
    ids, manifest = folder / "ids.bin", folder / "manifest.json"
    if harm == "flip":
        ids.write_bytes(bytes([ids.read_bytes()[0] ^ 1]) + ids.read_bytes()[1:])
    elif harm == "shorten":
        ids.write_bytes(ids.read_bytes()[:-1])
    elif harm == "remove":
        ids.unlink()
    elif harm == "manifest":
        manifest.write_text(manifest.read_text()[:-20])
    elif harm == "format":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": "tokens-0"}))
    else:
        manifest.unlink()
    assert open_entry(folder) is None
    entry, found = find_or_build(tmp_path, "abcd", write_entry, overwrite=False)
    assert not found and same(entry, SEQUENCES)
    assert find_or_build(tmp_path, "abcd", write_entry, overwrite=False)[1]
    if harm in ("flip", "shorten"):
        assert "is broken (ids.bin has" in capsys.readouterr().err


def test_a_failed_build_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "ids.bin").write_bytes(b"half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        find_or_build(tmp_path, "abcd", fail, overwrite=False)
    assert [path.name for path in (tmp_path / "ab").iterdir()] in ([".abcd.lock"], [])


def test_overwriting_keeps_what_others_have_mapped(tmp_path):
    before, _ = find_or_build(tmp_path, "abcd", write_entry, overwrite=False)
    after, found = find_or_build(tmp_path, "abcd", lambda folder: write_entry(folder, SEQUENCES[:1]), overwrite=True)
    assert not found and same(after, SEQUENCES[:1]) and same(before, SEQUENCES)


def test_others_may_read_the_entry(tmp_path):
    find_or_build(tmp_path, "abcd", write_entry, overwrite=False)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "ab" / "abcd").stat().st_mode) == 0o777 & ~mask


def _build_slowly(root: str, started, results) -> None:
    def build(folder: Path) -> None:
        started.set()
        time.sleep(0.5)
        write_entry(folder)
        results.put("built")

    entry, _ = find_or_build(Path(root), "abcd", build, overwrite=False)
    results.put("right" if same(entry, SEQUENCES) else "wrong")


def test_two_processes_build_once_and_both_are_right(tmp_path):
    context = multiprocessing.get_context("spawn")
    started, results = context.Event(), context.Queue()
    processes = [context.Process(target=_build_slowly, args=(str(tmp_path), started, results)) for _ in range(2)]
    for process in processes:
        process.start()
    said = sorted(results.get(timeout=60) for _ in range(3))
    for process in processes:
        process.join(60)
    assert said == ["built", "right", "right"]


def test_a_builder_that_is_killed_leaves_the_way_free(tmp_path):
    context = multiprocessing.get_context("spawn")
    started, results = context.Event(), context.Queue()
    process = context.Process(target=_build_slowly, args=(str(tmp_path), started, results))
    process.start()
    assert started.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    entry, found = find_or_build(tmp_path, "abcd", write_entry, overwrite=False)
    assert not found and same(entry, SEQUENCES)
    assert not list((tmp_path / "ab").glob("*.part"))


def test_the_same_settings_find_the_entry_again_and_others_do_not(tmp_path):
    write_set(tmp_path, alpaca_rows(5))

    def encoded(codec=None, objective=None, **changes) -> bool:
        """Whether anything was encoded."""
        codec = codec or PlainCodec()
        build_data(settings(tmp_path, **changes), objective or PlainObjective(), codec, names=("toy",), seed=1)
        return codec.num_encoded > 0

    assert encoded()
    assert not encoded()
    assert not encoded(preprocessing_batch_size=2, max_bad_rows=0.5, val_size=0.1, packing=True)  # none of it changes a token
    assert encoded(overwrite_cache=True)
    assert encoded(cutoff_len=12)
    assert encoded(cutoff_len=12, overlong="truncate_left")
    assert encoded(max_samples=3)
    assert encoded(codec=PlainCodec("another template"))
    assert encoded(objective=PlainObjective(learn="all"))
    assert not encoded()
    write_set(tmp_path, alpaca_rows(5, start=1))
    os.utime(tmp_path / "toy.json", (2000, 2000))
    assert encoded()


def test_a_moved_file_is_the_same_data_under_its_own_name(tmp_path):
    write_set(tmp_path, alpaca_rows(5))
    build_data(settings(tmp_path), PlainObjective(), PlainCodec(), names=("toy",), seed=1)
    shutil.copy(tmp_path / "toy.json", tmp_path / "copy.json")
    write_set(tmp_path, alpaca_rows(5), name="copy")
    codec = PlainCodec()
    tokens = build_data(settings(tmp_path), PlainObjective(), codec, names=("copy",), seed=1)
    assert codec.num_encoded == 0
    assert tokens.origin(0) == ("copy", 0) and tokens.report.sets[0].name == "copy" and tokens.report.reused == ("copy",)


def test_the_same_bytes_of_another_kind_are_other_rows(tmp_path):
    from_lines = []
    for kind in ("jsonl", "txt"):
        (tmp_path / f"toy.{kind}").write_text('{"text": "hello"}\n')
        entry = {"file_name": f"toy.{kind}", "columns": {"prompt": "text"}}
        (tmp_path / "dataset_info.json").write_text(json.dumps({"toy": entry}))
        tokens = build_data(settings(tmp_path), PlainObjective(Passage), PlainCodec(), names=("toy",), seed=1)
        from_lines.append(len(tokens[0]))
    assert from_lines == [len("hello") + 2, len('{"text": "hello"}') + 2]


def test_the_report_is_the_same_when_it_comes_from_the_cache(tmp_path):
    write_set(tmp_path, [*alpaca_rows(5), {"instruction": "?", "output": ""}])
    first, second = (
        build_data(settings(tmp_path, max_bad_rows=0.5), PlainObjective(), PlainCodec(), names=("toy",), seed=1) for _ in range(2)
    )
    assert second.report == replace(first.report, reused=("toy",))
    assert json.loads(json.dumps(second.report.to_dict()))["sets"][0]["refused"][0]["rows"] == [[5, ""]]
