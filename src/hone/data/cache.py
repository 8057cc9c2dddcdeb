"""The token cache: encoded sequences of one set in memory-mapped files, in a folder named by the hash of what they follow from.

Does not know how rows are read or encoded, nor what the key is made of. An entry is complete and sound, or it is not there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hone import log
from hone.chat.encoded import IGNORE, Encoded, Example
from hone.chat.shown import NOTHING, Reader, Shown
from hone.data.block import COLUMNS, ENDS, Block
from hone.data.media import read_back
from hone.data.report import SetReport
from hone.data.turn import turn

FORMAT = "tokens-3"
"""Part of every key: raise it when the files change."""
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Entry:
    """Examples of one set, mapped from disk. key: of their content; reader: prepares their media.

    Sequence s has the tokens offsets[s] to offsets[s + 1], example i the sequences firsts[i] to firsts[i + 1].
    """

    key: str
    ids: np.ndarray
    learned: np.ndarray
    offsets: np.ndarray
    firsts: np.ndarray
    rows: np.ndarray
    trained: np.ndarray
    values: np.ndarray
    notes: np.ndarray
    note_ends: np.ndarray
    media: np.ndarray
    media_ends: np.ndarray
    report: SetReport
    reader: Reader | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        """Example `index`: int32 ids and labels, without pieces."""
        sequences = tuple(map(self._sequence, range(int(self.firsts[index]), int(self.firsts[index + 1]))))
        return Example(sequences, float(self.values[index]), self.note(index))

    def note(self, index: int) -> str:
        """The note of example `index`."""
        return self.notes[int(self.note_ends[index]) : int(self.note_ends[index + 1])].tobytes().decode("utf-8")

    def _sequence(self, index: int) -> Encoded:
        place = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        ids = self.ids[place].astype(np.int32)
        return Encoded(ids, np.where(self.learned[place] != 0, ids, np.int32(IGNORE)), shown=self._shown(index))

    def _shown(self, index: int) -> Shown:
        start, end = int(self.media_ends[index]), int(self.media_ends[index + 1])
        return NOTHING if start == end else Shown(read_back(self.media[start:end].tobytes().decode("utf-8")), self.reader)

    @property
    def shows_media(self) -> bool:
        """Whether any of its examples holds a picture, a film or a sound."""
        return len(self.media) > 0

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int32."""
        return np.diff(self.offsets[self.firsts]).astype(np.int32)


class EntryWriter:
    """Appends examples to the files of an entry that nobody sees yet."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._types = dict(COLUMNS)
        self._files: dict[str, BinaryIO] = {name: (folder / f"{name}.bin").open("wb") for name in self._types}
        self._sums = dict.fromkeys(self._types, 0)
        self._ends = dict.fromkeys(ENDS, 0)
        for name in ENDS:
            self._append(name, np.zeros(1))

    def append(self, block: Block) -> None:
        """Add the examples of a block."""
        if not len(block):
            return
        if block.columns["ids"].dtype == np.uint32 and self._types["ids"] == "uint16":
            self._widen()
        for name, values in block.columns.items():
            self._append(name, values + self._ends[name] if name in self._ends else values)
        for name in self._ends:
            self._ends[name] += int(block.columns[name][-1])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example so far."""
        return np.diff(self.column("offsets")[self.column("firsts")])

    def _append(self, name: str, values: np.ndarray) -> None:
        data = values.astype(self._types[name], copy=False).data.cast("B")
        self._files[name].write(data)
        self._sums[name] = zlib.crc32(data, self._sums[name])

    def _widen(self) -> None:
        """Write the ids so far again in 32 bits: the vocabulary is larger than 16 bits tell apart."""
        self._files["ids"].close()
        narrow = self.folder / "ids.bin"
        narrow.rename(self.folder / "ids.16")
        self._types["ids"], self._sums["ids"], self._files["ids"] = "uint32", 0, narrow.open("wb")
        with (self.folder / "ids.16").open("rb") as file:
            while block := file.read(1 << 20):
                self._append("ids", np.frombuffer(block, np.uint16))
        (self.folder / "ids.16").unlink()

    def column(self, name: str) -> np.ndarray:
        """What was written so far of a column with a value a sequence."""
        self._files[name].flush()
        return np.fromfile(self.folder / f"{name}.bin", dtype=self._types[name])

    def close(self, report: SetReport | None = None) -> None:
        """Make the files durable; with a report, also the manifest that makes the entry complete."""
        sizes = {}
        for name, file in self._files.items():
            if file.closed:
                return
            file.flush()
            os.fsync(file.fileno())
            sizes[name] = file.tell()
            file.close()
        if report is None:
            return
        columns = {name: {"type": kind, "bytes": sizes[name], "crc32": self._sums[name]} for name, kind in self._types.items()}
        content = {"format": FORMAT, "columns": columns, "report": asdict(report)}
        with (self.folder / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())


def open_entry(folder: Path) -> Entry | None:
    """The entry in `folder`; None where there is none, or where a size or checksum is not what its manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return None
        columns = {name: _column(folder / f"{name}.bin", manifest["columns"][name]) for name in COLUMNS}
        report = SetReport.from_dict(manifest["report"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if folder.is_dir():
            log.warn(f"the cache entry {folder} is broken ({error}); it is built again")
        return None
    return Entry(key=folder.name, **columns, report=report)


def _column(path: Path, facts: dict) -> np.ndarray:
    size = path.stat().st_size
    if size != facts["bytes"]:
        raise ValueError(f"{path.name} has {size} bytes, not {facts['bytes']}")
    if not size:
        return np.zeros(0, dtype=facts["type"])
    if _crc32(path) != facts["crc32"]:
        raise ValueError(f"{path.name} has another checksum")
    return np.memmap(path, dtype=facts["type"], mode="r")


def _crc32(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total = zlib.crc32(block, total)
    return total


def find_or_build(root: Path, key: str, build: Callable[[Path], None], *, overwrite: bool) -> tuple[Entry, bool]:
    """The entry `key` under `root` and whether it was there; `build` writes a complete one into the folder it is given.

    Of several processes one builds and the others wait for it, as `turn` says. Where several build, the last to finish wins;
    each is right, as the key says what must be in it.
    """
    final = root / key[:2] / key
    if not overwrite and (entry := open_entry(final)) is not None:
        return entry, True
    final.parent.mkdir(parents=True, exist_ok=True)
    with turn(final, "encodes the same data") as alone:
        if not overwrite and (entry := open_entry(final)) is not None:
            return entry, True
        for stale in final.parent.glob(f".{key}.*.part") if alone else ():
            shutil.rmtree(stale, ignore_errors=True)  # left by a process that was killed: the lock says that nobody writes now
        part = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{key}.", suffix=".part"))
        try:
            build(part)
            _put(part, final)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        entry = open_entry(final)
    assert entry is not None, "an entry just built cannot be opened"
    return entry, False


def _put(part: Path, final: Path) -> None:
    """Rename `part` to `final`, moving what is there out of the way; whoever has that mapped keeps it."""
    part.chmod(0o777 & ~_umask())  # mkdtemp makes folders for their owner alone
    if final.exists():
        aside = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.", suffix=".part"))
        os.rename(final, aside / "old")
        os.rename(part, final)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.rename(part, final)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
