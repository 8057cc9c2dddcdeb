"""Files and words as they are written: values, lines, and what is wrong with a file as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from hone.config.arguments import read_arguments
from hone.config.source import read_file, read_word


def values(path: Path) -> dict:
    items, mistakes = read_file(path)
    assert not mistakes, mistakes
    return {item.key: item.value for item in items}


def test_yaml_numbers_are_what_people_mean(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "a: 1e-4\nb: 010\nc: 12:30\nd: 2024-01-01\ne: 5.\nf: on\ng: 1_000\nh: '3'\ni: ~\nj: -1\nk: 1E5\nl: .5\nm: 08\n"
    )
    found = {key: value.data for key, value in values(path).items()}
    assert found == {
        "a": 1e-4, "b": 10, "c": "12:30", "d": "2024-01-01", "e": 5.0, "f": True, "g": 1000, "h": "3", "i": None, "j": -1,
        "k": 1e5, "l": 0.5, "m": 8,
    }  # fmt: skip


def test_every_value_knows_its_line_and_its_text(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("# a comment\n\na: 0123\nb:\n  - x\nc:\n  d: yes\n")
    found = values(path)
    assert [found[key].where for key in "abc"] == [f"{path}:3", f"{path}:4", f"{path}:6"]
    assert found["a"].text == "0123" and found["b"].text is None
    assert found["c"].children["d"].where == f"{path}:7" and found["c"].children["d"].text == "yes"


def test_json_has_lines_too(tmp_path: Path):
    path = tmp_path / "run.json"
    path.write_text('{\n\t"a": 1e-4,\n\t"b": {"c": [\n1, {"a": 2}],\n"d": "x\\"{"},\n"e": null}\n')
    found = values(path)
    assert (found["a"].data, found["a"].where) == (1e-4, f"{path}:2")
    assert found["b"].children["d"].where == f"{path}:5" and found["b"].children["d"].data == 'x"{'
    assert found["e"].data is None and found["e"].where == f"{path}:6"


def test_anchors_and_merges(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("x: &base {a: 1, b: 2}\ny:\n  <<: *base\n  b: 3\n")
    assert values(path)["y"].data == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("name", "content", "line", "said"),
    [
        ("a.yaml", b"a: 1\nb: 2\na: 3\n", ":3", "stands twice, first in line 1"),
        ("a.yaml", b"a: {x: 1,\n x: 2}\n", ":2", "stands twice"),
        ("a.yaml", b"a: 1\nb: [1\nc: 2\n", ":3", "this is not YAML"),
        ("a.yaml", b"a: 1\n\tb: 2\n", ":2", "this is not YAML"),
        ("a.yaml", b"- a\n", ":1", "saw a list or a bare text"),
        ("a.yaml", b"hello\n", ":1", "saw a list or a bare text"),
        ("a.yaml", b"a: 1\n---\nb: 1\n", ":2", "this is not YAML"),
        ("a.yaml", b"a: !!python/object:os.system x\n", ":1", "this is not YAML"),
        ("a.yaml", b"a: !!timestamp x\n", ":1", "this is not YAML"),
        ("a.yaml", b"a: *nothing\n", ":1", "this is not YAML"),
        ("a.yaml", b"\x80\x81\xff", "", "not a text file"),
        ("a.yaml", b"a: 1\nb: \x00\n", ":2", "a character that YAML forbids"),
        ("a.yaml", b"a: " + b"[" * 5000, "", "nested too deep"),
        ("a.json", b'{"a": 1,\n "b": }', ":2", "this is not JSON"),
        ("a.json", b'{"a": 1,\n "a": 2}', "", "stands twice"),
        ("a.json", b"[1]", ":1", "saw no object"),
        ("a.json", b'{"a": ' + b"[" * 100000, "", "nested too deep"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, line: str, said: str):
    path = tmp_path / name
    path.write_bytes(content)
    _, mistakes = read_file(path)
    assert len(mistakes) == 1
    assert said in mistakes[0].message and mistakes[0].where.startswith(f"{path}{line}")


def test_files_that_cannot_be_read(tmp_path: Path):
    assert "no such file" in read_file(tmp_path / "none.yaml")[1][0].message
    assert "a folder" in read_file(tmp_path)[1][0].message
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    (tmp_path / "empty.json").write_text("")
    assert read_file(tmp_path / "empty.yaml") == read_file(tmp_path / "empty.json") == ([], [])


@pytest.mark.parametrize(
    ("word", "data"),
    [
        ("1e-4", 1e-4), ("true", True), ("", None), ("a,b", "a,b"), ("[1, 2]", [1, 2]), ("{a: 1}", {"a": 1}), ('"5"', "5"),
        ("Rule #1: be kind", "Rule #1: be kind"), ("*", "*"), ("[", "["), ("a: b", "a: b"), ("'", "'"), ("-1", -1),
    ],
)  # fmt: skip
def test_words_of_the_command_line(word: str, data: object):
    assert read_word(word).data == data


def test_arguments_are_told_apart():
    found = read_arguments(["run.yaml", "a=1", "--b", "2", "--c-d=x=y", "--e", "--f", "p", "q", "g=", "--h"])
    assert found.file == "run.yaml" and not found.mistakes
    assert [(item.key, item.value.data) for item in found.overrides] == [
        ("a", 1), ("b", 2), ("c_d", "x=y"), ("e", True), ("f", ["p", "q"]), ("g", None), ("h", True),
    ]  # fmt: skip


def test_words_that_are_nothing():
    found = read_arguments(["a.yaml", "b.yaml", "-x"])
    assert [mistake.key for mistake in found.mistakes] == ["b.yaml", "-x"]
