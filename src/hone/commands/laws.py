"""hone laws: tries a chat format's laws with a tokenizer.

Does not know the laws: chat has them.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from hone.chat.laws import check_laws, contradicts, official_for
from hone.commands.chat_arguments import Words, load_codec, read
from hone.errors import HoneError, TemplateError

_SIGNS = {True: "held  ", False: "BROKEN", None: "-     "}


def main(arguments: list[str]) -> int:
    """Print each law and whether it held; 1 where one is broken. The tokenizer's own template counts as the official one."""
    words = read(arguments, "laws")
    if len(words.rest) > 1 or (words.rest and "template" in words.settings):
        raise HoneError("name one template: hone laws [NAME] --tokenizer DIR [--json]")
    if words.rest:
        words = Words((), {**words.settings, "template": words.rest[0]}, words.flags)
    codec = load_codec(words, "laws")
    try:
        official = official_for(codec)
    except TemplateError:
        official = None  # the tokenizer carries no template to compare with
    results = check_laws(codec, official if not contradicts(codec, codec.tokenizer) else None)
    contradiction = contradicts(codec, codec.tokenizer)
    if "json" in words.flags:
        print(json.dumps({"laws": [asdict(result) for result in results], "contradicts": contradiction}, ensure_ascii=False))
    else:
        for result in results:
            print(f"{_SIGNS[result.held]}  {result.law}: {result.detail}")
        if contradiction:
            print(f"note: {contradiction}")
    return 1 if any(result.held is False for result in results) else 0
