"""Files: where the bytes of a data set lie (a file, a folder of one kind, a cloud, the hub) and what identifies them.

Does not know what a row means, nor how a file's rows are told apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hone.data.catalog import HUB_KEYS, DatasetSpec
from hone.data.sources import READERS, RawRow, ending, read_rows
from hone.errors import DataError, MissingExtra
from hone.models.hubs import fetch_dataset

HASH_BYTES = 1 << 20


class Source(Protocol):
    """A data set that can be read from its start, as often as wanted."""

    def rows(self) -> Iterator[RawRow]:
        """Every row in order, numbered from 0 over all files."""
        ...

    def identity(self, memo: Path) -> str:
        """A text that changes when the rows do; `memo` is a folder where slow answers may be kept."""
        ...


def open_source(spec: DatasetSpec, *, streaming: bool = False, token: str | None = None) -> Source:
    """The source of `spec`; token: for a private set of a hub.

    Raises DataError where it is not there, MissingExtra where a package is needed to reach it.
    """
    if spec.kind in HUB_KEYS.values():
        return HubSource(spec, streaming, token)
    if spec.kind == "cloud":
        return CloudSource(spec.place)
    return FileSource(tuple(_one_kind(Path(spec.place), spec.name)))


def _one_kind(path: Path, name: str) -> list[Path]:
    """The file itself, or the visible files of the folder in order of name, which must be of one kind."""
    if not path.exists():
        raise DataError(f'data set "{name}": there is no file {path}')
    if path.is_file():
        return [path]
    files = sorted(child for child in path.iterdir() if child.is_file() and not child.name.startswith("."))
    _check_kinds([str(file) for file in files], str(path))
    return files


def _check_kinds(files: list[str], folder: str) -> None:
    if not files:
        raise DataError(f"the folder {folder} holds no file; wanted files of one kind: {', '.join(READERS)}")
    kinds = sorted({ending(file) for file in files})
    if len(kinds) > 1:
        raise DataError(f"the folder {folder} holds files of several kinds ({', '.join(kinds)}); wanted one kind")


@dataclass(frozen=True)
class FileSource:
    """Files of this machine, read one after another."""

    files: tuple[Path, ...]

    def rows(self) -> Iterator[RawRow]:
        """Every row in order; DataError where a file is empty, broken or not UTF-8."""
        return _chained((str(path), path.open) for path in self.files)

    def identity(self, memo: Path) -> str:
        """The kind and the SHA-256 of the content of each file, in order: the same bytes are other rows as txt and as jsonl."""
        return " ".join(f"{ending(path.name)}:{file_hash(path, memo)}" for path in self.files)


def _chained(files: Iterable[tuple[str, Callable[[str], Any]]]) -> Iterator[RawRow]:
    """The rows of (name, opener) one after another, numbered over all of them."""
    number = 0
    for name, opener in files:
        try:
            with opener("rb") as file:
                for row in read_rows(file, name):
                    yield row if row.number == number else replace(row, number=number)
                    number += 1
        except OSError as error:
            raise DataError(f"cannot read {name}: {error.strerror or error}") from error


def file_hash(path: Path, memo: Path) -> str:
    """SHA-256 of a file's content, remembered in `memo` under its path, size and times of change.

    The time of the inode's change is one of them: whoever sets a file's time back (cp -p, touch -r, rsync -t) cannot set that.
    """
    state = path.stat()
    seen = {"path": str(path.absolute()), "size": state.st_size, "mtime_ns": state.st_mtime_ns}
    seen |= {"ctime_ns": state.st_ctime_ns, "inode": state.st_ino}
    note = memo / (hashlib.sha256(seen["path"].encode()).hexdigest()[:32] + ".json")
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}  # never seen, or half written: hash again
    if isinstance(known, dict) and isinstance(known.get("sha256"), str) and {**known, **seen} == known:
        return known["sha256"]
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BYTES):
            digest.update(block)
    # A file changed within the clock's grain could change again with the same time: such an answer is not kept.
    if time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > 2_000_000_000:
        write_whole(note, json.dumps({**seen, "sha256": digest.hexdigest()}))
    return digest.hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(name, path)


class CloudSource:
    """Files behind any URL that fsspec opens (s3://, gs://, https://, memory://)."""

    def __init__(self, url: str):
        self._fs, root = _file_system(url)
        try:
            folder = self._fs.isdir(root)
            self._files = sorted(self._fs.ls(root, detail=False)) if folder else [root]
            if not folder and not self._fs.exists(root):
                raise FileNotFoundError(url)
        except (OSError, ValueError) as error:
            raise DataError(f"cannot find {url}: {error}") from error
        _check_kinds(self._files, url)

    def rows(self) -> Iterator[RawRow]:
        """Every row in order, read as it comes."""
        return _chained((path, partial(self._fs.open, path)) for path in self._files)

    def identity(self, memo: Path) -> str:
        """What the store itself says of each file: its tag, or size and time."""
        return " ".join(f"{path}:{self._fs.ukey(path)}" for path in self._files)


def _file_system(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtra("fsspec", "hub", f"cloud_file_name: {url}") from error
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"cannot open {url}: {error}") from error


class HubSource:
    """A data set of a hub, through the package `datasets`; of another hub than Hugging Face's, its files are fetched first."""

    def __init__(self, spec: DatasetSpec, streaming: bool, token: str | None = None):
        self._spec, self._token = spec, token
        self._folder = None if spec.kind == "hf" else fetch_dataset(spec.place, spec.kind, token)
        self._data = _load_hub(spec, self._folder, streaming, token)
        self._streaming = streaming

    def rows(self) -> Iterator[RawRow]:
        """Every row in order: from the local copy, or from the hub as it comes when streaming."""
        for number, value in enumerate(self._data):
            yield RawRow(number, value)

    def identity(self, memo: Path) -> str:
        """The fingerprint of the local copy; when streaming, the commit of the repository, or the state of its files here."""
        if not self._streaming:
            return f"hub:{self._data._fingerprint}"
        state = _hub_commit(self._spec, self._token) if self._folder is None else _folder_state(self._folder)
        return f"hub:{self._spec.place}:{state}:{self._spec.subset}:{self._spec.folder}:{self._spec.split}"


def _folder_state(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    seen = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def _load_hub(spec: DatasetSpec, folder: Path | None, streaming: bool, token: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "hub", f'data set "{spec.name}" (hub id {spec.place})') from error
    try:
        place, asked = (spec.place, {"token": token}) if folder is None else (str(folder), {})
        return datasets.load_dataset(place, spec.subset, data_dir=spec.folder, split=spec.split, streaming=streaming, **asked)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f'data set "{spec.name}": cannot load {spec.place} from the hub: {type(error).__name__}: {error}'
        ) from error


def _hub_commit(spec: DatasetSpec, token: str | None) -> str:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "hub", f"streaming {spec.place}") from error
    try:
        return str(HfApi(token=token).dataset_info(spec.place).sha)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot ask the hub for the commit of {spec.place}: {error}") from error
