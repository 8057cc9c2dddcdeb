"""hone laws: tries the laws of chat formats, with a given tokenizer or with ones made for the formats.

Does not know the laws: chat has them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from hone.chat.laws import LAWS, LawResult, check_laws, contradicts, official_for
from hone.chat.survey import Surveyed, survey
from hone.chat.table import find, rows
from hone.commands.chat_arguments import Words, load_codec, read
from hone.errors import HoneError, TemplateError
from hone.models.stand_in import stand_in_tokenizer

_SIGNS = {True: "held  ", False: "BROKEN", None: "-     "}
_SHORT = {True: "+", False: "X", None: "-"}


def main(arguments: list[str]) -> int:
    """Print each law and whether it held; 1 where one is broken. A tokenizer's own template counts as the official one."""
    words = read(arguments, "laws")
    if len(words.rest) > 1 or (words.rest and "template" in words.settings):
        raise HoneError("name one template: hone laws [NAME] [--tokenizer DIR | --officials DIR] [--json]")
    if words.rest:
        words = Words((), {**words.settings, "template": words.rest[0]}, words.flags)
    return _with_tokenizer(words) if "tokenizer" in words.settings else _with_stand_ins(words)


def _with_tokenizer(words: Words) -> int:
    if "officials" in words.settings:
        raise HoneError(
            "--officials is for formats without a tokenizer; with --tokenizer the tokenizer's own template is compared"
        )
    codec = load_codec(words, "laws")
    try:
        official = official_for(codec)
    except TemplateError:
        official = None  # the tokenizer carries no template to compare with
    contradiction = contradicts(codec, codec.tokenizer)
    results = check_laws(codec, None if contradiction else official)
    if "json" in words.flags:
        print(json.dumps({"laws": [asdict(result) for result in results], "contradicts": contradiction}, ensure_ascii=False))
    else:
        _print_laws(results)
        if contradiction:
            print(f"note: {contradiction}")
    return 1 if any(result.held is False for result in results) else 0


def _with_stand_ins(words: Words) -> int:
    other = set(words.settings) - {"template", "officials"}
    if other:
        raise HoneError(f"--{min(other)} needs --tokenizer DIR")
    folder = Path(words.settings["officials"]) if "officials" in words.settings else None
    if folder is not None and not folder.is_dir():
        raise HoneError(f"--officials {folder} is not a folder; give the one in which the makers' .jinja files lie")
    name = words.settings.get("template")
    chosen = [find(name)] if name else list(rows().values())
    found = list(survey(chosen, stand_in_tokenizer, folder))
    if "json" in words.flags:
        print(json.dumps([_facts(one) for one in found], ensure_ascii=False))
    elif name:
        _print_laws(found[0].laws)
    else:
        _print_table(found)
    return 1 if any(one.broken for one in found) else 0


def _print_laws(results: list[LawResult] | tuple[LawResult, ...]) -> None:
    for result in results:
        print(f"{_SIGNS[result.held]}  {result.law}: {result.detail}")


def _print_table(found: list[Surveyed]) -> None:
    print("each format with a tokenizer made for it; the laws, in order (+ held, X broken, - nothing to try it on):")
    for number, law in enumerate(LAWS, 1):
        print(f"  {number} {law}")
    width = max(len(one.row.name) for one in found)
    for one in found:
        signs = " ".join(_SHORT[law.held] for law in one.laws)
        print(f"{one.row.name:<{width}}  {signs}  {one.row.official or '(no template of the maker at hand)'}")
        for broken in one.broken:
            print(f"{'':<{width}}  {broken.law}: {broken.detail}")
    tried = [law for one in found for law in one.laws if law.held is not None]
    print(f"{len(found)} formats: {sum(bool(law.held) for law in tried)} of {len(tried)} laws held")


def _facts(one: Surveyed) -> dict:
    return {
        "template": one.row.name,
        "format": one.row.format,
        "official": one.row.official,
        "laws": [asdict(law) for law in one.laws],
        "compared": one.compared,
        "differs": dict(one.differs),
        "reasons": dict(one.row.differs),
        "broken": [asdict(law) for law in one.broken],
    }
