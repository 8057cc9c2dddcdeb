"""The laws of whole rows of the table: each with a tokenizer made for it, against the maker's template the row names.

Does not know a tokenizer's kind, nor where the makers' templates lie: both are handed in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hone.chat.codec import Codec, build_codec
from hone.chat.dialects.table import find_dialect
from hone.chat.laws import LAWS, LawResult, Official, check_laws, official_differences
from hone.chat.message import Conversation
from hone.chat.own import OwnTemplate
from hone.chat.probes import named, probes
from hone.chat.table import Row
from hone.chat.tokens import control_names
from hone.config.chat import ChatConfig

_MARKUP = re.compile("<[^<>]+>|\u25c1[^\u25b7]+\u25b7")
"""A token among the words around a thought, which may be several with text between them."""

LLAMA_DAY = "26 Jul 2024"
"""The day that Llama's templates write where they are told none and know no clock; the rows write it always."""

MakeTokenizer = Callable[[str, str, Iterable[str]], Any]
"""(bos, eos, control tokens) to a tokenizer that has them."""


@dataclass(frozen=True)
class Surveyed:
    """A row and its laws. compared: probes that the maker's template renders too; differs: those that differ, with where."""

    row: Row
    laws: tuple[LawResult, ...]
    compared: tuple[str, ...] = ()
    differs: tuple[tuple[str, str], ...] = ()

    @property
    def broken(self) -> tuple[LawResult, ...]:
        """Laws that do not hold; a declared difference that is none counts as one."""
        seen = {trait for probe in probes() if probe.name in dict(self.differs) for trait in probe.traits}
        stale = sorted(set(self.row.differs) - seen) if self.compared else []
        extra = (LawResult(LAWS[0], False, f"declared to differ, but equal: {', '.join(stale)}"),) if stale else ()
        return (*(law for law in self.laws if law.held is False), *extra)


def survey(rows: Iterable[Row], make: MakeTokenizer, officials: Path | None) -> Iterator[Surveyed]:
    """Try every law on every row; officials: the folder of the makers' templates, None where there is none."""
    for row in rows:
        codec = stand_in_codec(row, make)
        official = official_of_row(row, codec, officials)
        differences = official_differences(_as_compared(row, codec), official) if official else {}
        declared = named(row.differs)
        known = [name for name, found in differences.items() if found and name in declared]
        results = check_laws(codec)
        first = _first_law(differences, known) if differences else results[0]
        differing = tuple((name, found) for name, found in differences.items() if found)
        yield Surveyed(row, (first, *results[1:]), tuple(differences), differing)


def stand_in_codec(row: Row, make: MakeTokenizer, **settings: Any) -> Codec:
    """The codec of a row with a tokenizer made for it; settings: of the chat section."""
    return build_codec(ChatConfig(template=row.name, **settings), make(row.bos, row.eos, tokens_of(row)))


def tokens_of(row: Row) -> list[str]:
    """Every control token the row's texts may hold, bos and eos aside."""
    thoughts = _MARKUP.findall(row.think_open + row.think_close) if row.thinking != "none" else []
    media = [word for written in row.media.values() for word in _MARKUP.findall(written) or [written]]
    words = [*row.tokens, *row.stop, *find_dialect(row.dialect).tokens, *media, *thoughts]
    return [word for word in dict.fromkeys(words) if word not in ("eos", row.bos, row.eos)]


def official_of_row(row: Row, codec: Codec, officials: Path | None) -> Official | None:
    """The maker's template that the row names, None where it is not at hand."""
    text = _official_text(row.official, officials) if officials and row.official else ""
    if not text:
        return None
    tokenizer = codec.tokenizer
    names = {**tokenizer.special_tokens_map, "date_string": LLAMA_DAY}
    chat = ChatConfig(enable_thinking=row.thinking != "never")
    own = OwnTemplate(text, names, control_names(tokenizer), chat, tokenizer.eos_token)

    def official(conversation: Conversation, prompt: bool) -> str:
        plain = own.plain(conversation, prompt)
        return plain.removesuffix(row.official_opening) if prompt else plain

    return official


def _official_text(name: str, officials: Path) -> str:
    """The Jinja text; a name that begins with "tokenizers/" is a tokenizer's folder beside the templates'."""
    if name.startswith("tokenizers/"):
        file = officials.parent / name / "tokenizer_config.json"
        return json.loads(file.read_text(encoding="utf-8"))["chat_template"] if file.is_file() else ""
    file = officials / name
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    # Those are pretty-printed; their README tells to take the white space out.
    return text.replace("    ", "").replace("\n", "") if name.startswith("chujiezheng/") else text


def _as_compared(row: Row, codec: Codec) -> Codec:
    if row.official_system is None:
        return codec
    return build_codec(ChatConfig(template=row.name, default_system=row.official_system), codec.tokenizer)


def _first_law(differences: dict[str, str], known: list[str]) -> LawResult:
    broken = [found for name, found in differences.items() if found and name not in known]
    if broken:
        return LawResult(LAWS[0], False, f"{len(broken)} of {len(differences)} probes: {broken[0]}")
    told = f"; {len(known)} known differences: {', '.join(known)}" if known else ""
    return LawResult(LAWS[0], True, f"held in {len(differences) - len(known)} probes{told}")
