"""Words: text cut where no token of a tokenizer reaches across, so that a word that was met before is not tokenised again.

Does not know control tokens, nor how a word is tokenised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import add, contains, itemgetter
from typing import Any

import numpy as np

_SPACE = "\u2581"
"""What SentencePiece writes for a space."""
MOST_WORDS, LONGEST_WORD = 1 << 18, 32
"""Words that are kept, and characters of one."""
_TOGETHER = 128
"""New words that are tokenised as lines of one text: a call for each would cost several times what its merges do."""


@dataclass(frozen=True)
class Joints:
    """Where no token reaches across: before spaces. newline: the id of a line's end where none reaches across that either."""

    newline: int | None


def find_joints(tokenizer: dict[str, Any]) -> Joints | None:
    """By a tokenizer's JSON; None where cutting could change its ids.

    Exact for byte-pair encoding of whole texts (SentencePiece's kind): pieces are joined by merges alone, so where no merge joins
    a character to the next one, both sides are tokenised as they would be by themselves.
    """
    model = tokenizer["model"]
    if model.get("type") != "BPE" or tokenizer["added_tokens"] or tokenizer["pre_tokenizer"] is not None:
        return None
    if any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")):
        return None
    vocab = model["vocab"]
    if num_spaces(tokenizer["normalizer"]) is None or _SPACE not in vocab:
        return None
    lefts, rights = merges_of(model)
    joined = set(zip(map(itemgetter(-1), lefts), map(itemgetter(0), rights), strict=True))
    if any(right == _SPACE != left for left, right in joined) or any(map(contains, map(add, lefts, rights), repeat("<0x"))):
        return None
    newline = vocab.get("\n", vocab.get("<0x0A>") if model.get("byte_fallback") else None)
    return Joints(None if any("\n" in pair for pair in joined) else newline)


def merges_of(model: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The left sides and the right sides of a model's merges."""
    pairs = [merge if isinstance(merge, list) else merge.split(" ", 1) for merge in model.get("merges") or ()]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def num_spaces(normalizer: dict[str, Any] | None) -> int | None:
    """How many spaces it puts before a text; None where it changes more than that and how spaces are written."""
    if normalizer is None:
        return None
    parts = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    others = [part for part in parts if part != replaces]
    only = len(others) < len(parts) and all(part == {"type": "Prepend", "prepend": _SPACE} for part in others)
    return len(others) if only else None


Word = str | tuple[str]
"""A word as it is found in a text: ("the",) at the text's start, "the" for " the", "\nthe" for itself."""


class Words:
    """`Words(joints, tokenise).encode(texts)`: ids of each text, int32 [T]. tokenise: texts to ids, no space put before them."""

    def __init__(self, joints: Joints, tokenise: Callable[[list[str]], Sequence[Sequence[int]]]):
        self._newline, self._tokenise = joints.newline, tokenise
        space = f"[ {_SPACE}]"
        lines = rf"\n?{space}*[^ {_SPACE}\n]+|{space}+|\n"
        self._find = re.compile(lines if self._newline is not None else rf"{space}*[^ {_SPACE}]+|{space}+").findall
        self._known: dict[Word, bytes] = {}

    def encode(self, texts: Sequence[str], spaces: int = 0) -> list[np.ndarray]:
        """Each word that is not known is tokenised once a call. spaces: how many stand before each text that is not empty."""
        split = [self._split(" " * spaces + text) if text else [] for text in texts]
        new = set[Word]().union(*split).difference(self._known)
        self._learn(list(new))
        known = self._known.__getitem__
        coded = [np.frombuffer(b"".join(map(known, words)), np.int32) for words in split]
        self._forget(new)
        return coded

    def _split(self, text: str) -> list[Word]:
        """The words of a text; what stands before a space alone is most often found by str.split, in half a pattern's time."""
        words: list[Word]
        if "  " in text or _SPACE in text:
            words = self._find(text)
        else:
            words = (text if self._newline is None else text.replace("\n", " \n")).split(" ")
        words[0] = (str(words[0]),)
        return words

    def _spelled(self, word: Word) -> str:
        if isinstance(word, tuple):
            return word[0]
        itself = (" ", _SPACE) if self._newline is None else (" ", _SPACE, "\n")
        return word if word.startswith(itself) else " " + word

    def _learn(self, words: list[Word]) -> None:
        texts = list(map(self._spelled, words))
        if self._newline is None:
            coded = [np.array(ids, np.int32).tobytes() for ids in self._tokenise(texts)]
        else:
            coded = self._as_lines(texts, self._newline)
        self._known.update(zip(words, coded, strict=True))

    def _as_lines(self, texts: list[str], newline: int) -> list[bytes]:
        """The ids of each; a line's end can only stand at its start."""
        lines = [text.removeprefix("\n") for text in texts]
        found: list[bytes] = []
        together = [lines[start : start + _TOGETHER] for start in range(0, len(lines), _TOGETHER)]
        for ids in self._tokenise(list(map("\n".join, together))):
            array_T = np.array(ids, np.int32)
            whole, start = array_T.tobytes(), 0
            for end in [*np.flatnonzero(array_T == newline).tolist(), len(ids)]:
                found.append(whole[4 * start : 4 * end])
                start = end + 1
        lead = np.array([newline], np.int32).tobytes()
        return [lead + line if text.startswith("\n") else line for text, line in zip(texts, found, strict=True)]

    def _forget(self, new: set[Word]) -> None:
        if len(self._known) > MOST_WORDS:
            self._known.clear()
            return
        for word in new:
            if len(word[0] if isinstance(word, tuple) else word) > LONGEST_WORD:
                del self._known[word]
