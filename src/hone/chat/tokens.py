"""Runs of text and control tokens to ids: control tokens by name, all other text by a tokenizer that knows none.

Does not know conversations or templates. The ids are those Hugging Face gives for the whole text, where no content looks like
a control token.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from operator import add
from typing import Any, Literal

import numpy as np

from hone.chat.words import Words, find_joints, merges_of, num_spaces
from hone.errors import TemplateError

Place = Literal["head", "after", "middle"]
"""Where a run stands: at the very start, right after a control token, or in the middle of text cut by us."""

PLACES: tuple[Place, ...] = ("head", "after", "middle")

_CACHED_CHARS = 64
_CACHED_RUNS = 4096


@dataclass(frozen=True)
class Control:
    """A control token: lstrip and rstrip swallow the white space beside it."""

    id: int
    lstrip: bool
    rstrip: bool


def is_control(text: str, special: bool) -> bool:
    """Special tokens, and marked-up ones such as Qwen3's <think>; added words (letters, spaces, "mynewword") are content."""
    return special or any(char in "<>[]{}|\u25c1\u25b7" for char in text)


def control_names(tokenizer: Any) -> frozenset[str]:
    """The spellings of a tokenizer's control tokens."""
    return frozenset(
        token.content for token in tokenizer.added_tokens_decoder.values() if is_control(token.content, token.special)
    )


@dataclass(frozen=True)
class Plain:
    """A tokenizer without control tokens for one place. remap: its ids to ours where they differ; words: where it can be cut.

    spaces: how many it puts before a text, where it can be cut.
    """

    tokenizer: Any
    remap: np.ndarray | None
    words: Words | None = None
    spaces: int = 0

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Ids (int32 [T]) of each text."""
        if self.words is not None:
            return self.words.encode(texts, self.spaces)
        coded = [np.array(ids, dtype=np.int32) for ids in _ids_of(self.tokenizer, texts)]
        return coded if self.remap is None else [self.remap[ids] for ids in coded]


class Tokens:
    """Text to ids and back for one fast tokenizer; raises TemplateError for a tokenizer that is not backed by `tokenizers`."""

    def __init__(self, tokenizer: Any):
        if not tokenizer.is_fast:
            raise TemplateError(
                f"{type(tokenizer).__name__} is a slow (Python) tokenizer; hone needs a tokenizer.json beside it: write one with "
                "transformers.convert_slow_tokenizer.convert_slow_tokenizer(tokenizer).save(folder + '/tokenizer.json')"
            )
        self.backend = tokenizer.backend_tokenizer
        added = sorted(self.backend.get_added_tokens_decoder().items())
        self.control = {
            token.content: Control(number, token.lstrip, token.rstrip)
            for number, token in added
            if is_control(token.content, token.special)
        }
        names = sorted(self.control, key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None
        self.name_of = {control.id: name for name, control in self.control.items()}
        self._cache: dict[tuple[str, Place], np.ndarray] = {}

    @cached_property
    def json(self) -> str:
        """All of the tokenizer, as its file would hold it."""
        return self.backend.to_str()

    def split(self, text: str) -> list[tuple[str, Control | None]]:
        """Control text cut at its control tokens, in order; leftmost and longest first, as Hugging Face does."""
        if self._pattern is None:
            return [(text, None)] if text else []
        return [(part, self.control.get(part)) for part in self._pattern.split(text) if part]

    def encode(self, runs: list[tuple[str, Place, bool]]) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Ids (int32 [T]) and, where the third field asks, character offsets (int32 [T, 2]) of each run, in one batch a place."""
        found: list[Any] = [None] * len(runs)
        waiting: dict[tuple[Place, bool], list[int]] = {}
        for index, (text, place, wants_offsets) in enumerate(runs):
            known = None if wants_offsets else self._cache.get((text, place))
            if known is not None:
                found[index] = (known, None)
            else:
                waiting.setdefault((place, wants_offsets), []).append(index)
        for (place, wants_offsets), indices in waiting.items():
            texts = [runs[index][0] for index in indices]
            plain = self._plain[place]
            coded, offsets = _with_offsets(plain, texts) if wants_offsets else (plain.encode(texts), [None] * len(texts))
            self._require_plain(coded, texts)
            for index, ids, places in zip(indices, coded, offsets, strict=True):
                found[index] = (ids, places)
                if not wants_offsets and len(runs[index][0]) <= _CACHED_CHARS and len(self._cache) < _CACHED_RUNS:
                    self._cache[runs[index][0], place] = ids
        return found

    def decode(self, ids: list[int], place: Place) -> str:
        """The text of `ids` (none of them control) standing at `place`; bytes that are no UTF-8 become U+FFFD."""
        if not ids:
            return ""
        text = self.backend.decode([*self._anchor, *ids], skip_special_tokens=False)[len(self._anchor_text) :]
        prefixed = place != "middle" and place in self._prefixed
        return text[1:] if prefixed and text.startswith(" ") else text

    def _require_plain(self, coded: list[np.ndarray], texts: list[str]) -> None:
        """Raise TemplateError where plain text became a control token."""
        if not self._is_control[np.concatenate(coded)].any():
            return
        text, ids = next((text, ids) for text, ids in zip(texts, coded, strict=True) if self._is_control[ids].any())
        name = self.name_of[int(ids[self._is_control[ids]][0])]
        raise TemplateError(f"this tokenizer turns plain text into the control token {name!r} near {text[:60]!r}")

    @cached_property
    def _is_control(self) -> np.ndarray:
        flags = np.zeros(self.backend.get_vocab_size(with_added_tokens=True) + len(self.control) + 1, dtype=bool)
        ids = [control.id for control in self.control.values()]
        flags = np.resize(flags, max([len(flags), *(i + 1 for i in ids)]))
        flags[ids] = True
        return flags

    @cached_property
    def _plain(self) -> dict[Place, Plain]:
        return _plain_copies(_Original(self.json, tuple(self.control), self.backend))

    @cached_property
    def _anchor(self) -> list[int]:
        # Decoders of SentencePiece kind strip the first space of what they are given: with a letter before it, nothing is lost.
        return self.encode([("a", "middle", False)])[0][0].tolist()

    @cached_property
    def _anchor_text(self) -> str:
        return self.backend.decode(self._anchor, skip_special_tokens=False)

    @cached_property
    def _prefixed(self) -> set[Place]:
        """Places where the tokenizer puts a space before the text by itself."""
        places: tuple[Place, ...] = ("head", "after")
        bare = self.encode([("a", "middle", False)])[0][0].tolist()
        return {place for place in places if self.encode([("a", place, False)])[0][0].tolist() != bare}


def _ids_of(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def _with_offsets(plain: Plain, texts: list[str]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    encodings = plain.tokenizer.encode_batch(texts, add_special_tokens=False)
    coded = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
    offsets = [np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2) for encoding in encodings]
    return coded if plain.remap is None else [plain.remap[ids] for ids in coded], offsets


@dataclass(frozen=True)
class _Original:
    """A tokenizer, its JSON, and the names of its control tokens. Equal where the JSON and the names are."""

    text: str
    control: tuple[str, ...]
    backend: Any = field(compare=False)


@lru_cache(maxsize=2)
def _plain_copies(original: _Original) -> dict[Place, Plain]:
    """A tokenizer without control tokens for each place, with the map of its ids to ours where they differ.

    They share one model, and where the original's cannot produce a control token, that one: to read a vocabulary takes longer
    than all else that is made here.
    """
    names, data, kind = frozenset(original.control), json.loads(original.text), type(original.backend)
    base, same = _without_control(data, names)
    model = original.backend.model if same else kind.from_str(json.dumps(base, ensure_ascii=False)).model
    added = original.backend.get_added_tokens_decoder()
    words = {number: token for number, token in sorted(added.items()) if token.content not in names}
    empty = json.dumps(base | {"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []})
    forms = {place: json.dumps(_at_place(base, place)) for place in PLACES}  # in most tokenizers all the same
    made = {}
    for form in dict.fromkeys(forms.values()):
        plain = kind.from_str(json.dumps(json.loads(empty) | json.loads(form)))
        plain.model = model
        plain.add_tokens(list(words.values()))
        made[form] = plain, _remap(plain, words)
    joints = find_joints(base | _at_place(base, "middle"))
    shared = None if joints is None else Words(joints, partial(_ids_of, made[forms["middle"]][0]))
    found = {}
    for place, form in forms.items():
        spaces = num_spaces(_at_place(base, place)["normalizer"])
        found[place] = Plain(*made[form]) if spaces is None else Plain(*made[form], shared, spaces)
    return found


def _remap(plain: Any, words: dict[int, Any]) -> np.ndarray | None:
    """Of the ids of a tokenizer without control tokens, where added words have others there than in the original."""
    moved = {old: new for new, word in words.items() if (old := plain.token_to_id(word.content)) != new}
    if not moved:
        return None
    remap = np.arange(max(plain.get_vocab_size(with_added_tokens=True), *(old + 1 for old in moved)), dtype=np.int32)
    remap[list(moved)] = list(moved.values())
    return remap


def _without_control(data: dict[str, Any], control: frozenset[str]) -> tuple[dict[str, Any], bool]:
    """The tokenizer's JSON without control tokens, in a form in which its model cannot produce their ids either.

    True: the model is as it was.
    """
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] not in control]
    data |= {"post_processor": None, "truncation": None, "padding": None}
    model = data["model"]
    vocab = model.get("vocab")
    if isinstance(vocab, list):  # Unigram would choose "</s>" as a piece: give the piece a name no text has
        model["vocab"] = [
            [f"\ufdd0{index}\ufdd1", score] if name in control else [name, score] for index, (name, score) in enumerate(vocab)
        ]
        return data, False
    lefts, rights = merges_of(model)
    if control.isdisjoint(map(add, lefts, rights)):
        return data, True
    model["merges"] = [pair for pair in zip(lefts, rights, strict=True) if "".join(pair) not in control]
    return data, False


def _at_place(data: dict[str, Any], place: Place) -> dict[str, Any]:
    """What differs of a tokenizer's JSON for runs at `place`: only as much prefix space as Hugging Face would add there."""
    kept = {key: data[key] for key in ("normalizer", "pre_tokenizer")}
    if place != "head":
        kept["pre_tokenizer"] = _each(kept["pre_tokenizer"], "pretokenizers", lambda part: _unprefixed(part, place))
    if place == "middle":
        kept["normalizer"] = _each(kept["normalizer"], "normalizers", lambda part: None if part["type"] == "Prepend" else part)
    return kept


def _each(part: Any, key: str, change: Any) -> Any:
    if part is None:
        return None
    if part["type"] == "Sequence":
        changed = [_each(inner, key, change) for inner in part[key]]
        return part | {key: [inner for inner in changed if inner is not None]}
    return change(part)


def _unprefixed(part: dict[str, Any], place: Place) -> dict[str, Any]:
    if part["type"] == "Metaspace" and (place == "middle" or part.get("prepend_scheme") == "first"):
        return part | {"prepend_scheme": "never"}
    if part["type"] == "ByteLevel" and place == "middle":
        return part | {"add_prefix_space": False}
    return part
