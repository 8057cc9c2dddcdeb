"""The catalog: names of data sets; dataset_info.json tells where each lies, its rows' shape and what its columns are called.

Does not know what a row means, and opens no data file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hone import log
from hone.config.environment import read_environment
from hone.errors import DataError, MissingExtra
from hone.table import nearest

CATALOG_FILE = "dataset_info.json"
SHAPES = ("alpaca", "sharegpt", "openai")
HUB_KEYS = {"hf_hub_url": "hf", "ms_hub_url": "ms", "om_hub_url": "om"}
"""Keys of an entry that name a repository, and the hub it lies on."""
_ENTRY_KEYS = (
    *HUB_KEYS, "script_url", "cloud_file_name", "file_name", "formatting", "ranking", "subset", "split", "folder", "num_samples",
    "columns", "tags",
)  # fmt: skip
_OLD_KEYS = ("file_sha1", "cloud_file_sha1")


@dataclass(frozen=True)
class Columns:
    """What each thing is called in the rows; None where the set has no such column."""

    prompt: str | None = "instruction"
    query: str | None = "input"
    response: str | None = "output"
    history: str | None = None
    messages: str | None = "conversations"
    system: str | None = None
    tools: str | None = None
    images: str | None = None
    videos: str | None = None
    audios: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    kto_tag: str | None = None
    positive: str | None = None
    negative: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Tags:
    """What keys and roles are called inside a message; None where the set has no such role."""

    role_tag: str | None = "from"
    content_tag: str | None = "value"
    user_tag: str | None = "human"
    assistant_tag: str | None = "gpt"
    observation_tag: str | None = "observation"
    function_tag: str | None = "function_call"
    system_tag: str | None = "system"


OPENAI_TAGS = Tags("role", "content", "user", "assistant", "tool", "function", "system")
"""The names inside an openai set whose entry has no tags."""


@dataclass(frozen=True)
class DatasetSpec:
    """One data set. kind: where `place` is: "file" (absolute path of a file or folder), "cloud" (URL), or a repository's id
    on a hub: "hf" (Hugging Face), "ms" (ModelScope), "om" (Modelers). media_dir: what paths of pictures, films and sounds are
    relative to.
    """

    name: str
    kind: str
    place: str
    shape: str = "alpaca"
    columns: Columns = Columns()
    tags: Tags = Tags()
    ranking: bool = False
    subset: str | None = None
    split: str = "train"
    folder: str | None = None
    num_samples: int | None = None
    media_dir: str = "."

    @property
    def is_preference(self) -> bool:
        """Whether its rows are pairs or rated answers, which supervised learning cannot use."""
        return self.ranking or self.columns.kto_tag is not None


@dataclass(frozen=True)
class Catalog:
    """The entries of one dataset_info.json. where: its path, for messages; base: the folder file names are relative to.

    hub: which one is preferred ("hf", "ms", "om"); any_hub_id: every name is an id there.
    """

    entries: Mapping[str, Any]
    where: str
    base: Path
    hub: str = "hf"
    any_hub_id: bool = False
    exists: bool = True

    def __contains__(self, name: str) -> bool:
        return self.any_hub_id or name in self.entries

    def find(self, name: str) -> DatasetSpec:
        """The spec of data set `name`; DataError with the nearest name where it is not defined."""
        if self.any_hub_id:
            return DatasetSpec(name, self.hub, name)
        if name not in self.entries and not self.exists:
            raise DataError(
                f'there is no {self.where} to say what the data set "{name}" is; write it, or name its folder in dataset_dir, '
                "or write the path of a file in place of the name"
            )
        if name not in self.entries:
            known = f"it defines {_listed(sorted(self.entries))}" if self.entries else "it defines nothing"
            raise DataError(f'data set "{name}" is not defined in {self.where}{nearest(name, list(self.entries))}; {known}')
        return _spec(name, self.entries[name], self)


def _listed(names: list[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def load_catalog(dataset_dir: str | Mapping[str, Any]) -> Catalog:
    """Read the catalog of a folder, of "REMOTE:<hub repository>", or a mapping; "ONLINE" takes every name for a hub id.

    A folder without dataset_info.json gives an empty catalog, so that plain file paths can still be data sets.
    """
    hub = read_environment()[0].hub
    if isinstance(dataset_dir, Mapping):
        return Catalog(dict(dataset_dir), "the mapping dataset_dir", Path.cwd(), hub)
    if dataset_dir == "ONLINE":
        return Catalog({}, "ONLINE", Path.cwd(), hub, any_hub_id=True)
    if dataset_dir.startswith("REMOTE:"):
        path = _download(dataset_dir.removeprefix("REMOTE:"))
        return Catalog(_read(path), f"{dataset_dir}/{CATALOG_FILE}", Path.cwd(), hub)
    path = Path(dataset_dir).expanduser() / CATALOG_FILE
    if not path.is_file():
        return Catalog({}, str(path), path.parent, hub, exists=False)
    return Catalog(_read(path), str(path), path.parent, hub)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: broken JSON at line {error.lineno}: {error.msg}") from error
    if not isinstance(content, dict):
        raise DataError(f'{path} must be an object {{"name": {{...}}, ...}}, not {type(content).__name__}')
    return content


def _download(repository: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "hub", f"dataset_dir: REMOTE:{repository}") from error
    try:
        return Path(hf_hub_download(repository, CATALOG_FILE, repo_type="dataset"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot fetch {CATALOG_FILE} of {repository} from the hub: {error}") from error


def _spec(name: str, entry: Any, catalog: Catalog) -> DatasetSpec:
    where = f'{catalog.where}, data set "{name}"'
    if not isinstance(entry, Mapping):
        raise DataError(f"{where}: wanted an object, seen {type(entry).__name__}")
    _check_keys(entry, where)
    kind, place = _source(entry, catalog, where)
    shape = entry.get("formatting", "alpaca")
    if shape not in SHAPES:
        hint = nearest(shape, list(SHAPES)) if isinstance(shape, str) else ""
        raise DataError(f"{where}: formatting is {shape!r}{hint}; wanted one of {', '.join(SHAPES)}")
    columns = _named(Columns(), entry.get("columns"), f"{where}, columns")
    tags = _named(OPENAI_TAGS if shape == "openai" else Tags(), entry.get("tags"), f"{where}, tags")
    texts = {key: _optional(entry, key, str, where) for key in ("subset", "split", "folder")}
    num_samples = _optional(entry, "num_samples", int, where)
    if num_samples is not None and num_samples < 1:
        raise DataError(f"{where}: num_samples is {num_samples}; wanted 1 or more")
    ranking = bool(_optional(entry, "ranking", bool, where))
    return DatasetSpec(
        name, kind, place, shape, columns, tags, ranking, texts["subset"], texts["split"] or "train", texts["folder"], num_samples
    )


def _check_keys(entry: Mapping[str, Any], where: str) -> None:
    """A key near a known one is a slip of the pen; another (an old file's checksum) is named once, without effect."""
    for key in entry:
        if key in _ENTRY_KEYS:
            continue
        hint = nearest(str(key), list(_ENTRY_KEYS))
        if hint and key not in _OLD_KEYS:
            raise DataError(f'{where}: unknown key "{key}"{hint}; known: {", ".join(_ENTRY_KEYS)}')
        log.once(f'note: {where}: the key "{key}" has no meaning here')


def _source(entry: Mapping[str, Any], catalog: Catalog, where: str) -> tuple[str, str]:
    """Hub keys win over script_url, that over cloud_file_name, that over file_name, as in LLaMA-Factory.

    Of hub keys the one of the preferred hub wins, then Hugging Face's, then ModelScope's.
    """
    ids = {hub: str(entry[key]) for key, hub in HUB_KEYS.items() if entry.get(key)}
    for hub in (catalog.hub, *HUB_KEYS.values()):
        if hub in ids:
            return hub, ids[hub]
    if entry.get("script_url"):
        raise DataError(
            f"{where}: script_url runs a script that comes with the data; convert the set to jsonl or parquet and use file_name"
        )
    if entry.get("cloud_file_name"):
        return "cloud", str(entry["cloud_file_name"])
    if entry.get("file_name"):
        return "file", str((catalog.base / Path(str(entry["file_name"])).expanduser()).absolute())
    raise DataError(f"{where}: it says nowhere where the data are; write file_name, cloud_file_name or {', '.join(HUB_KEYS)}")


def _named(defaults: Any, given: Any, where: str) -> Any:
    """The defaults, or, where anything is given, that and nothing else: what is left out is switched off.

    LLaMA-Factory's files rely on it: `columns: {prompt: q, response: a}` also says that there is no query column.
    """
    if given is None:
        return defaults
    if not isinstance(given, Mapping):
        raise DataError(f"{where}: wanted an object, seen {type(given).__name__}")
    known = [field.name for field in fields(defaults)]
    for key, value in given.items():
        if key not in known:
            raise DataError(f'{where}: unknown key "{key}"{nearest(str(key), known)}; known: {", ".join(known)}')
        if value is not None and not isinstance(value, str):
            raise DataError(f"{where}.{key}: wanted a name, seen {value!r}")
    return type(defaults)(**{key: given.get(key) for key in known})


def _optional(entry: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = entry.get(key)
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise DataError(f"{where}: {key} is {value!r}; wanted {kind.__name__}")
    return value
