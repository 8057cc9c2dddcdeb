"""Sources: the raw rows of a data set, one after another, whatever file they lie in; memory stays bounded by a chunk or a row.

Does not know what a row means.
"""

from __future__ import annotations

import codecs
import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from hone.errors import DataError

CHUNK_BYTES = 1 << 20
"""How much of a JSON file is read at a time."""
ARROW_ROWS = 1000
"""How many rows of a columnar file are unpacked at a time."""

csv.field_size_limit(sys.maxsize)


@dataclass(frozen=True, slots=True)
class RawRow:
    """number: its place in the set, from 0. value: the row, or None where `problem` says why it cannot be read."""

    number: int
    value: Mapping[str, Any] | None
    problem: str = ""
    detail: str = ""


Reader = Callable[[BinaryIO, str], Iterator[RawRow]]


def read_rows(file: BinaryIO, name: str) -> Iterator[RawRow]:
    """The rows of one file, numbered from 0; its kind is the ending of `name`, which messages carry."""
    first = file.read(4)
    if not first:
        raise DataError(f"{name} is empty")
    file.seek(0)
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{name} is UTF-16; save it as UTF-8")
    yield from READERS[ending(name)](file, name)


def ending(name: str) -> str:
    """The file's kind, "jsonl" of "a/b.jsonl"; DataError where it is none that can be read."""
    kind = name.rsplit("/", 1)[-1].rpartition(".")[2].lower()
    if kind not in READERS:
        raise DataError(f"{name}: files of this kind cannot be read; wanted one of {', '.join('.' + known for known in READERS)}")
    return kind


def _json(file: BinaryIO, name: str) -> Iterator[RawRow]:
    """An array of objects, or objects one after another (a single one, too)."""
    for number, (value, line) in enumerate(JsonStream(file, name)):
        if number == 0 and (key := _list_inside(value)):
            raise DataError(f'{name}: wanted a list of rows; it is an object whose key "{key}" holds one: save that list alone')
        yield _object(number, value, line)


def _list_inside(value: Any) -> str:
    """The key of an object that wraps a list of rows, "" of a row: that has other keys beside a list, and messages in it."""
    for key, inside in value.items() if isinstance(value, dict) else ():
        wraps = len(value) == 1 or key in ("data", "rows", "train", "examples")
        rows = wraps and isinstance(inside, list) and inside and all(isinstance(row, dict) for row in inside[:3])
        if rows and not {"role", "from"} & set(inside[0]):
            return key
    return ""


def _jsonl(file: BinaryIO, name: str) -> Iterator[RawRow]:
    """One object a line; a broken line is that row's problem alone. A file that opens with [ is an array all the same."""
    if file.read(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        file.seek(0)
        yield from _json(file, name)
        return
    file.seek(0)
    number = 0
    for line_number, text in _lines(file, name):
        if not text.strip():
            continue
        try:
            yield _object(number, json.loads(text), line_number)
        except (ValueError, RecursionError) as error:
            yield RawRow(number, None, "broken JSON", f"broken JSON at line {line_number}: {json_fault(error)}")
        number += 1


def json_fault(error: ValueError | RecursionError) -> str:
    """What Python's reader of JSON found: a mistake of spelling, or more than it reads."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "lists or objects are nested too deep" if isinstance(error, RecursionError) else "a number has thousands of digits"


def _object(number: int, value: Any, line: int) -> RawRow:
    if isinstance(value, dict):
        return RawRow(number, value)
    return RawRow(number, None, "not an object", f"line {line} holds {type(value).__name__}, wanted an object")


def _txt(file: BinaryIO, name: str) -> Iterator[RawRow]:
    """One row {"text": ...} a line; lines of white space alone separate and are no rows."""
    filled = (text.rstrip("\r\n") for _, text in _lines(file, name) if text.strip())
    for number, text in enumerate(filled):
        yield RawRow(number, {"text": text})


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _encoding_error(name, number, error) from error


def _csv(file: BinaryIO, name: str) -> Iterator[RawRow]:
    """Columns named by the first line; every value is text, an empty one is None."""
    reader = csv.reader(_utf8_text(file, name), strict=True)
    try:
        header = next(reader)
        if twice := [key for key in dict.fromkeys(header) if header.count(key) > 1]:
            raise DataError(f'{name}: the header names the column "{twice[0]}" twice; rename one')
        if len(header) == 1 and (mark := next((mark for mark in _OTHER_MARKS if mark in header[0]), "")):
            raise DataError(f"{name}: its cells are parted by {_OTHER_MARKS[mark]}, wanted commas; save it again with commas")
        for number, cells in enumerate(cells for cells in reader if cells):
            if len(cells) == len(header):
                yield RawRow(number, {key: cell or None for key, cell in zip(header, cells, strict=True)})
            else:
                detail = f"line {reader.line_num} has {len(cells)} cells, the header has {len(header)}"
                yield RawRow(number, None, "wrong number of cells", detail)
    except csv.Error as error:
        raise DataError(f"{name}: broken CSV at line {reader.line_num}: {error}") from error


_OTHER_MARKS = {";": "semicolons", "\t": "tabs"}


def _utf8_text(file: BinaryIO, name: str) -> Iterator[str]:
    return (text for _, text in _lines(file, name))


def _parquet(file: BinaryIO, name: str) -> Iterator[RawRow]:
    try:
        batches = pq.ParquetFile(file).iter_batches(batch_size=ARROW_ROWS)
        yield from _numbered(batches)
    except pa.ArrowException as error:
        raise DataError(f"{name} is not a readable parquet file: {error}") from error


def _arrow(file: BinaryIO, name: str) -> Iterator[RawRow]:
    """Arrow IPC, in the file format or in the stream format that `datasets` writes."""
    try:
        yield from _numbered(_arrow_batches(file))
    except pa.ArrowException as error:
        raise DataError(f"{name} is not a readable arrow file: {error}") from error


def _arrow_batches(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    if file.read(6) == b"ARROW1":
        file.seek(0)
        opened = pa.ipc.open_file(file)
        for index in range(opened.num_record_batches):
            yield opened.get_batch(index)
    else:
        file.seek(0)
        yield from pa.ipc.open_stream(file)


def _numbered(batches: Iterator[pa.RecordBatch]) -> Iterator[RawRow]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, ARROW_ROWS):
            for value in batch.slice(start, ARROW_ROWS).to_pylist():
                yield RawRow(number, value)
                number += 1


READERS: dict[str, Reader] = {
    "json": _json, "jsonl": _jsonl, "csv": _csv, "parquet": _parquet, "arrow": _arrow, "txt": _txt,
}  # fmt: skip


def _encoding_error(name: str, line: int, error: UnicodeDecodeError) -> DataError:
    byte = error.object[error.start]
    return DataError(f"{name}: line {line} is not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8")


class JsonStream:
    """Iterates over the values of an array, or over values one after another, as (value, line number), a chunk at a time.

    No more than a chunk and the value at hand is in memory. A mistake cannot be skipped: what follows it could mean anything.
    """

    def __init__(self, file: BinaryIO, name: str, *, chunk_bytes: int = CHUNK_BYTES):
        self._file, self._name, self._chunk_bytes = file, name, chunk_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._at, self._line, self._ended = "", 0, 1, False

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        in_array = self._peek() == "["
        if in_array:
            self._move(self._at + 1)
            if self._peek() == "]":
                return
        while self._peek():
            yield self._value()
            if in_array and not self._next_in_array():
                break
        if self._peek():
            raise self._broken("more text follows the end of the array")

    def _next_in_array(self) -> bool:
        """Step over a comma (True) or the closing bracket (False)."""
        mark = self._peek()
        if mark not in (",", "]"):
            raise self._broken("wanted a comma or ] after this value" if mark else "the array is not closed with ]")
        self._move(self._at + 1)
        if mark == "," and not self._peek():
            raise self._broken("the file ends after a comma")
        return mark == ","

    def _value(self) -> tuple[Any, int]:
        wanted = self._chunk_bytes
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended or not _may_be_cut_off(error, len(self._text)):
                    raise self._broken(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                raise self._broken(json_fault(error)) from error
            else:
                # A number near the end of what was read may go on in the next chunk: "1" of "1.5", "1.5" of "1.5e+3".
                if self._ended or end + 2 < len(self._text):
                    line = self._line
                    self._move(end)
                    return value, line
            self._fill(wanted)
            wanted *= 2  # or a value of many chunks would be scanned again for each

    def _peek(self) -> str:
        """The next character that is not white space, "" at the end."""
        while True:
            end = self._at
            while end < len(self._text) and self._text[end] in " \t\r\n":
                end += 1
            self._move(end)
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._fill(self._chunk_bytes)

    def _fill(self, num_bytes: int) -> None:
        data = self._file.read(num_bytes)
        try:
            new = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = self._line_of(len(self._text)) + error.object.count(b"\n", 0, error.start)
            raise _encoding_error(self._name, line, error) from error
        self._text, self._at, self._ended = self._text[self._at :] + new, 0, not data

    def _move(self, position: int) -> None:
        self._line, self._at = self._line_of(position), position

    def _line_of(self, position: int) -> int:
        return self._line + self._text.count("\n", self._at, position)

    def _broken(self, message: str, position: int | None = None) -> DataError:
        line = self._line_of(self._at if position is None else position)
        return DataError(f"{self._name}: broken JSON at line {line}: {message}")


def _may_be_cut_off(error: json.JSONDecodeError, length: int) -> bool:
    """Whether reading on may mend it: an open string, or a mistake within a literal's length of the end."""
    return error.msg.startswith("Unterminated string") or error.pos > length - 16
