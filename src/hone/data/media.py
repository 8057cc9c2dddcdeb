"""Media of a row: the files that its columns name, put where its text says <image>, <video> or <audio>; and kept as text.

Does not know how a file is read: paths are stored, never pixels.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hone.chat.message import MEDIA, Audio, Conversation, Image, Media, Message, Part, Source, Text, Video
from hone.data.catalog import DatasetSpec
from hone.data.columns import RowError, decoded

COLUMNS: Mapping[str, type[Media]] = {"images": Image, "videos": Video, "audios": Audio}
_PLACE = re.compile(f"<({'|'.join(MEDIA)})>")


def media_of(row: Mapping[str, Any], spec: DatasetSpec) -> list[Media]:
    """The files that a row's columns of media name, by kind and in order."""
    return [
        kind(_source(value, column, spec))
        for name, kind in COLUMNS.items()
        if (column := vars(spec.columns)[name]) and row.get(column)
        for value in _listed(row[column], column)
    ]


def with_media(conversation: Conversation, row: Mapping[str, Any], spec: DatasetSpec) -> Conversation:
    """The conversation with the row's files where its texts have their places. Raises RowError where the two differ in number."""
    declared = {kind.kind for name, kind in COLUMNS.items() if vars(spec.columns)[name]}
    if not declared:
        return conversation
    waiting: dict[str, list[Media]] = {kind: [] for kind in declared}
    for part in media_of(row, spec):
        waiting[part.kind].append(part)
    held = {kind: len(parts) for kind, parts in waiting.items()}
    written = dict.fromkeys(declared, 0)

    def placed(one: Message) -> Message:
        parts: list[Part] = []
        for part in one.parts:
            parts += _split(part, waiting, written) if isinstance(part, Text) else [part]
        return replace(one, parts=tuple(parts))

    made = replace(conversation, messages=tuple(map(placed, conversation.messages)))
    for kind in sorted(declared):
        if written[kind] != held[kind]:
            seen = f"it has {held[kind]} files and <{kind}> {written[kind]} times in its text"
            raise RowError(f"its {kind} files and their places in the text differ in number", seen)
    return made


def _split(text: Text, waiting: Mapping[str, list[Media]], written: dict[str, int]) -> list[Part]:
    """A text cut at the places of declared kinds, with the next file of that kind in each, while there is one."""
    parts: list[Part] = []
    said = ""
    for number, piece in enumerate(_PLACE.split(text.text)):
        if number % 2 and piece in waiting:
            written[piece] += 1
            parts += ([replace(text, text=said)] if said else []) + waiting[piece][:1]
            del waiting[piece][:1]
            said = ""
        else:
            said += f"<{piece}>" if number % 2 else piece
    return [*parts, *([replace(text, text=said)] if said or not parts else [])]


def _listed(value: Any, column: str) -> list[Any]:
    """A column's value as a list: one file by itself is one, and JSON text of a list is that list (as CSV must have it)."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = decoded(value, f'column "{column}"')
    return value if isinstance(value, list) else [value]


def _source(value: Any, column: str, spec: DatasetSpec) -> Source:
    """A path, or the file itself as parquet sets of the hub hold it: bytes, or an object with bytes or path."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise RowError(f'column "{column}" names no file', f"seen {type(value).__name__}: {str(value)[:60]}")
    return Path(spec.media_dir).expanduser() / value


def written_down(parts: tuple[Media, ...]) -> str:
    """JSON text from which `read_back` makes the parts again; '' for none."""
    if not parts:
        return ""
    return json.dumps([[part.kind, *_kept(part.source)] for part in parts])


def read_back(text: str) -> tuple[Media, ...]:
    """See `written_down`."""
    return tuple(MEDIA[kind](base64.b64decode(said) if form == "base64" else Path(said)) for kind, form, said in json.loads(text))


def _kept(source: Source) -> tuple[str, str]:
    return ("base64", base64.b64encode(source).decode()) if isinstance(source, bytes) else ("path", str(source))
