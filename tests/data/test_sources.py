"""Tests of reading raw rows: every kind of file, whole and broken, in bounded pieces."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
import time
import tracemalloc
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.data.catalog import DatasetSpec
from hone.data.files import file_hash, open_source
from hone.data.sources import JsonStream, read_rows
from hone.errors import DataError, MissingExtra
from hone.models import hubs

ROWS = [{"instruction": f"问 {n}", "output": "a\nb" * (n % 50), "tags": [n, None]} for n in range(2500)]
TEXTS = [{"instruction": f"问 {n}", "output": f'a\nb, "{n}"'} for n in range(50)]


def rows_of(data: bytes, name: str):
    return list(read_rows(io.BytesIO(data), name))


def values(data: bytes, name: str):
    rows = rows_of(data, name)
    assert [row.number for row in rows] == list(range(len(rows)))
    assert all(row.problem == "" for row in rows)
    return [row.value for row in rows]


def as_jsonl(rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array(indent):
    assert values(json.dumps(ROWS, indent=indent, ensure_ascii=False).encode(), "x.json") == ROWS


def test_one_object_and_objects_one_after_another_are_rows_too():
    assert values(json.dumps(ROWS[3], indent=2).encode(), "x.json") == [ROWS[3]]
    assert values(as_jsonl(ROWS), "x.json") == ROWS


@pytest.mark.parametrize("wrapped", [{"data": TEXTS}, {"version": "1", "data": TEXTS}, {"mine": TEXTS}])
def test_an_object_around_the_list_of_rows_is_told_by_its_key(wrapped):
    key = list(wrapped)[-1]
    with pytest.raises(DataError, match=f'wanted a list of rows; it is an object whose key "{key}" holds one'):
        values(json.dumps(wrapped).encode(), "x.json")
    row = {"messages": [{"role": "user", "content": "q"}]}
    assert values(json.dumps(row).encode(), "x.json") == [row]


def test_json_lines_with_blank_lines_a_mark_and_windows_ends():
    data = b"\xef\xbb\xbf" + as_jsonl(ROWS).replace(b"\n", b"\r\n\r\n")
    assert values(data, "x.jsonl") == ROWS


def test_an_array_in_a_jsonl_file():
    assert values(json.dumps(ROWS).encode(), "x.jsonl") == ROWS


def test_csv():
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["instruction", "output"])
    writer.writeheader()
    writer.writerows(TEXTS)
    assert values(file.getvalue().encode(), "x.csv") == TEXTS


def test_parquet_and_both_arrow_formats():
    table = pa.Table.from_pylist(ROWS)
    parquet, stream, file = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, row_group_size=700)
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert values(parquet.getvalue(), "x.parquet") == ROWS
    assert values(stream.getvalue(), "x.arrow") == ROWS
    assert values(file.getvalue(), "x.arrow") == ROWS


def test_text_lines_are_rows_and_blank_lines_are_not():
    assert values(b"eins\n\n  \nzwei\r\ndrei", "x.txt") == [{"text": "eins"}, {"text": "zwei"}, {"text": "drei"}]


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(items=st.lists(json_values, max_size=6), chunk=st.integers(1, 9), indent=st.sampled_from([None, 1]), ascii=st.booleans())
def test_chunks_cut_anywhere_change_nothing(items, chunk, indent, ascii):
    data = json.dumps(items, indent=indent, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    if b"\xed" in data and not ascii:  # a lone surrogate is not UTF-8
        return
    assert [value for value, _ in JsonStream(io.BytesIO(data), "x.json", chunk_bytes=chunk)] == items


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('[{"a": 1},\n{"a": 2}\n{"a": 3}]', "x.json: broken JSON at line 3: wanted a comma or ]"),
        ('[{"a": 1},\n\n{"a" 2}]', "x.json: broken JSON at line 3: Expecting ':'"),
        ('[{"a": 1},\n{"a": 2},\n', "x.json: broken JSON at line 3: the file ends after a comma"),
        ('[{"a": 1}\n', "x.json: broken JSON at line 2: the array is not closed"),
        ('[{"a": 1}]\n\nend', "x.json: broken JSON at line 3: more text follows"),
        ('[{"a": "never closed}]', "x.json: broken JSON at line 1: Unterminated string"),
        ('[{"a": 1},\n{"a": ' + "9" * 5000 + "}]", "x.json: broken JSON at line 2: a number has thousands of digits"),
        (
            '[{"a": 1},\n{"a": ' + "[" * 100_000 + "]" * 100_000 + "}]",
            "x.json: broken JSON at line 2: lists or obj",
        ),
        ("", "x.json is empty"),
    ],
    ids=range(9),
)
def test_broken_json_names_the_line(data, said):
    with pytest.raises(DataError) as caught:
        rows_of(data.encode(), "x.json")
    assert str(caught.value).startswith(said)


def test_a_mistake_early_in_a_large_file_is_found_early():
    class Counted(io.BytesIO):
        asked = 0

        def read(self, size=-1):
            self.asked += max(size, 0)
            return super().read(size)

    file = Counted(b'[{"a": 1, }, ' + as_jsonl(ROWS).replace(b"\n", b",") * 20)
    with pytest.raises(DataError, match="line 1"):
        list(JsonStream(file, "x.json", chunk_bytes=1000))
    assert file.asked < 10_000


def test_a_broken_line_of_jsonl_is_that_rows_problem_alone():
    rows = rows_of(b'{"a": 1}\n\n{"a": \n[1, 2]\n{"a": 4}\n', "x.jsonl")
    assert [row.value for row in rows] == [{"a": 1}, None, None, {"a": 4}]
    assert (rows[1].problem, rows[2].problem) == ("broken JSON", "not an object")
    assert "line 3" in rows[1].detail and "line 4" in rows[2].detail


def test_a_line_of_jsonl_beyond_reading_is_that_rows_problem_alone():
    rows = rows_of(b'{"a": ' + b"9" * 5000 + b'}\n{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b'}\n{"a": 1}\n', "x.jsonl")
    assert [row.problem for row in rows] == ["broken JSON", "broken JSON", ""]
    assert "thousands of digits" in rows[0].detail and "nested too deep" in rows[1].detail


def test_a_csv_column_named_twice_is_refused():
    with pytest.raises(DataError, match='names the column "a" twice'):
        rows_of(b"a,b,a\n1,2,3\n", "x.csv")


@pytest.mark.parametrize(("mark", "said"), [(b";", "semicolons"), (b"\t", "tabs")])
def test_a_csv_with_other_marks_between_its_cells_is_told(mark, said):
    with pytest.raises(DataError, match=f"its cells are parted by {said}, wanted commas"):
        rows_of(mark.join((b"instruction", b"output\na", b"b\n")), "x.csv")


def test_a_csv_line_with_too_few_cells_is_that_rows_problem_alone():
    rows = rows_of(b"a,b\n1,2\n3\n5,\n", "x.csv")
    assert [row.value for row in rows] == [{"a": "1", "b": "2"}, None, {"a": "5", "b": None}]
    assert rows[1].detail == "line 3 has 1 cells, the header has 2"


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.csv", "x.txt"])
def test_other_encodings_are_refused_with_the_line(name):
    texts = {
        "x.json": '[{"a": "b"},\n{"a": "中文"}]',
        "x.jsonl": '{"a": "b"}\n{"a": "中文"}\n',
        "x.csv": "a\n中文\n",
        "x.txt": "b\n中文",
    }
    with pytest.raises(DataError, match=r"line 2 is not UTF-8 \(byte 0xd6\); save the file as UTF-8"):
        rows_of(texts[name].encode("gbk"), name)
    with pytest.raises(DataError, match="is UTF-16"):
        rows_of(texts[name].encode("utf-16"), name)


def test_files_that_are_no_data():
    with pytest.raises(DataError, match=r"x.parquet is not a readable parquet file"):
        rows_of(b"not parquet at all", "x.parquet")
    with pytest.raises(DataError, match=r"x.arrow is not a readable arrow file"):
        rows_of(b"not arrow at all", "x.arrow")
    with pytest.raises(DataError, match=r"x.xlsx: files of this kind cannot be read; wanted one of .json"):
        rows_of(b"PK", "x.xlsx")


def source(place, kind="file"):
    return open_source(DatasetSpec("toy", kind, str(place)))


def test_a_folder_is_its_files_in_order_of_name(tmp_path):
    for name, part in (("b.jsonl", ROWS[10:20]), ("a.jsonl", ROWS[:10])):
        (tmp_path / name).write_bytes(as_jsonl(part))
    (tmp_path / ".hidden.txt").write_text("no")
    rows = list(source(tmp_path).rows())
    assert [row.value for row in rows] == ROWS[:20]
    assert [row.number for row in rows] == list(range(20))


def test_folders_of_several_kinds_or_of_nothing_and_missing_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no file"):
        source(tmp_path)
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "b.csv").write_text("a")
    with pytest.raises(DataError, match=r"several kinds \(csv, json\)"):
        source(tmp_path)
    with pytest.raises(DataError, match='"toy": there is no file'):
        source(tmp_path / "gone.json")


def test_a_cloud_folder_is_read_through_fsspec():
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for name, part in (("2.jsonl", ROWS[5:]), ("1.jsonl", ROWS[:5])):
        with files.open(f"/bucket/toy/{name}", "wb") as file:
            file.write(as_jsonl(part))
    cloud = source("memory://bucket/toy", "cloud")
    assert [row.value for row in cloud.rows()] == ROWS
    before = cloud.identity(None)
    with files.open("/bucket/toy/2.jsonl", "wb") as file:
        file.write(as_jsonl(ROWS[6:]))
    assert source("memory://bucket/toy", "cloud").identity(None) != before
    with pytest.raises(DataError, match=r"cannot find memory://bucket/gone\.jsonl"):
        source("memory://bucket/gone.jsonl", "cloud")


def test_a_hub_set_is_read_through_datasets(tmp_path, monkeypatch):
    """A local folder stands for the repository: `datasets` loads both in the same way."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "train.jsonl").write_bytes(as_jsonl(TEXTS))
    hub = source(tmp_path / "repo", "hf")
    assert [row.value for row in hub.rows()] == TEXTS
    assert hub.identity(tmp_path) == source(tmp_path / "repo", "hf").identity(tmp_path)
    streamed = open_source(DatasetSpec("toy", "hf", str(tmp_path / "repo")), streaming=True)
    assert [row.value for row in streamed.rows()] == TEXTS
    with pytest.raises(DataError, match=r'"toy": cannot load .*/gone from the hub'):
        source(tmp_path / "gone", "hf")


def test_a_set_of_another_hub_is_fetched_and_then_read_as_any(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("hone.models.hubs._fetch", hubs._fetch.__wrapped__)  # nothing is remembered from before
    repo, asked = tmp_path / "repo", []
    repo.mkdir()
    (repo / "train.jsonl").write_bytes(as_jsonl(TEXTS))

    def snapshot_download(place, **arguments):
        asked.append((place, arguments["repo_type"], arguments["revision"], arguments["token"]))
        if place == "gone/set":
            raise ValueError("no such\nset")
        return str(repo)

    stub = ModuleType("modelscope")
    stub.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "modelscope", stub)
    fetched = source("us/toy", "ms")
    assert [row.value for row in fetched.rows()] == TEXTS and asked == [("us/toy", "dataset", None, None)]
    streamed = open_source(DatasetSpec("toy", "ms", "us/toy"), streaming=True, token="ms-secret")
    assert [row.value for row in streamed.rows()] == TEXTS and asked[-1][-1] == "ms-secret"
    before = streamed.identity(tmp_path)
    (repo / "train.jsonl").write_bytes(as_jsonl(TEXTS[1:]))
    assert open_source(DatasetSpec("toy", "ms", "us/toy"), streaming=True).identity(tmp_path) != before
    with pytest.raises(DataError, match=r"gone/set cannot be had from ModelScope: no such set\n.*a private data set needs"):
        source("gone/set", "ms")
    monkeypatch.setitem(sys.modules, "openmind_hub", None)
    with pytest.raises(MissingExtra, match=r"us/toy, looked for on Modelers, needs .*hone-llm\[openmind\]"):
        source("us/toy", "om")


def test_a_files_hash_is_remembered_until_it_changes(tmp_path, monkeypatch):
    path, memo = tmp_path / "x.txt", tmp_path / "memo"
    path.write_text("one")
    now = time.time_ns()
    monkeypatch.setattr("hone.data.files.time.time_ns", lambda: now + 10_000_000_000)
    os.utime(path, (1000, 1000))
    first = file_hash(path, memo)
    assert len(list(memo.iterdir())) == 1
    path.write_text("two")
    os.utime(path, (1001, 1001))
    assert file_hash(path, memo) != first
    path.write_text("ten")
    os.utime(path, (1001, 1001))  # the same size, the same time of change
    assert file_hash(path, memo) == hashlib.sha256(b"ten").hexdigest()
    monkeypatch.undo()
    path.write_text("six")  # changed just now: the next change could carry the same time, so nothing is remembered
    assert file_hash(path, tmp_path / "other") != first
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path, ending):
    """40 MB are read with a few MB of Python objects: a chunk and the row at hand."""
    path = tmp_path / f"big.{ending}"
    line = json.dumps({"instruction": "x" * 2000, "output": "y" * 2000})
    with path.open("w") as file:
        file.write(
            "[" * (ending == "json") + (",\n" if ending == "json" else "\n").join([line] * 10_000) + "]" * (ending == "json")
        )
    tracemalloc.start()
    count = sum(1 for _ in source(path).rows())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 8e6
