"""Words: text cut where no token of a tokenizer reaches across, so that a word that was met before is not tokenised again.

Does not know control tokens, nor how a word is tokenised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

_SPACE = "\u2581"
"""What SentencePiece writes for a space."""
MOST_WORDS, LONGEST_WORD = 1 << 18, 32
"""Words that are kept, and characters of one."""


def word_pattern(tokenizer: dict[str, Any]) -> re.Pattern[str] | None:
    """What finds the words of a text, one behind the other, by a tokenizer's JSON; None where cutting could change its ids.

    Exact for byte-pair encoding of whole texts (SentencePiece's kind): pieces are joined by merges alone, so where no merge joins
    a character to the next one, both sides are tokenised as they would be by themselves.
    """
    model = tokenizer["model"]
    if model.get("type") != "BPE" or tokenizer["added_tokens"] or tokenizer["pre_tokenizer"] is not None:
        return None
    if any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")):
        return None
    if not _only_writes_spaces(tokenizer["normalizer"]) or _SPACE not in model["vocab"]:
        return None
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ", 1)) for merge in model["merges"]]
    joined = {(left[-1], right[0]) for left, right in merges}
    if any(right == _SPACE != left for left, right in joined) or any("<0x" in left + right for left, right in merges):
        return None
    alone = (model.get("byte_fallback") or not model.get("fuse_unk")) and not any("\n" in pair for pair in joined)
    space = f"[ {_SPACE}]"
    return re.compile(rf"{space}*[^ {_SPACE}\n]+|{space}+|\n" if alone else rf"{space}*[^ {_SPACE}]+|{space}+")


def _only_writes_spaces(normalizer: dict[str, Any] | None) -> bool:
    """Whether a text is changed in nothing but a space before it and how spaces are written."""
    if normalizer is None:
        return False
    parts = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    others = [part for part in parts if part != replaces]
    return len(others) < len(parts) and all(part == {"type": "Prepend", "prepend": _SPACE} for part in others)


class Words:
    """`Words(pattern, tokenise).encode(texts, tokenise_first)`: ids of each text, int32 [T].

    tokenise: words to ids, as they stand within a text; tokenise_first: as the first of a text stands.
    """

    def __init__(self, pattern: re.Pattern[str], tokenise: Callable[[list[str]], Sequence[Sequence[int]]]):
        self._split, self._tokenise = pattern.findall, tokenise
        self._known: dict[str, Sequence[int]] = {}

    def encode(self, texts: Sequence[str], tokenise_first: Callable[[list[str]], Sequence[Sequence[int]]]) -> list[np.ndarray]:
        """A text is its first word and those after it; each word that is not known is tokenised once a call."""
        split = [self._split(text) for text in texts]
        first = list(dict.fromkeys(words[0] for words in split if words))
        first_ids = dict(zip(first, tokenise_first(first), strict=True))
        new = {word for words in split for word in words[1:]}.difference(self._known)
        known = self._known
        known.update(zip(ordered := sorted(new), self._tokenise(ordered), strict=True))
        coded = [
            np.fromiter(chain(first_ids[words[0]], chain.from_iterable(map(known.__getitem__, words[1:]))), np.int32)
            if words
            else np.zeros(0, np.int32)
            for words in split
        ]
        self._forget(new)
        return coded

    def _forget(self, new: set[str]) -> None:
        if len(self._known) > MOST_WORDS:
            self._known.clear()
            return
        for word in new:
            if len(word) > LONGEST_WORD:
                del self._known[word]
