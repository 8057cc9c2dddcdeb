"""Words give the ids of whole texts, and tokenizers for which they would not are left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from hone.chat import words
from hone.chat.words import Joints, Words, find_joints

CORPUS = ["the other brother  bothers\nanother mother", "a  tab\tand   spaces\n\nor lines", "thé 中文 the mother"] * 20
TEXTS = st.text(alphabet=" \u2581\n\ttheromaé中😀<0x0A>", max_size=40)


def trained(*, across: bool = False) -> dict[str, Any]:
    """A tokenizer of SentencePiece's kind over whole texts, as JSON; its merges go from word to word where `across`."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    if not across:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Split("\n", "isolated")])
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False))
    tokenizer.pre_tokenizer = None
    data = json.loads(tokenizer.to_str())
    return data | {"added_tokens": []}


def tokenise(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


WHOLE = trained()
HEAD = Tokenizer.from_str(json.dumps(WHOLE))
MIDDLE = Tokenizer.from_str(json.dumps(WHOLE | {"normalizer": WHOLE["normalizer"]["normalizers"][1]}))


def by_words(tokenize: Callable[[list[str]], list[list[int]]]) -> Words:
    joints = find_joints(WHOLE)
    assert joints is not None and joints.newline is not None
    return Words(joints, tokenize)


@pytest.mark.parametrize("lines", [True, False])
@settings(deadline=None, max_examples=60)
@given(texts=st.lists(TEXTS, max_size=4))
def test_ids_are_those_of_whole_texts(lines, texts):
    cut = by_words(partial(tokenise, MIDDLE)) if lines else Words(Joints(None), partial(tokenise, MIDDLE))
    for tokenizer, spaces in ((HEAD, 1), (MIDDLE, 0)):
        for _ in range(2):  # of words that are new, and of words that are known
            assert [ids.tolist() for ids in cut.encode(texts, spaces)] == tokenise(tokenizer, texts)


def test_many_new_words_are_told_apart():
    texts = [" ".join(f"m{number}o" for number in range(start, start + 400)) + "\n" for start in (0, 200, 400)]
    assert [ids.tolist() for ids in by_words(partial(tokenise, MIDDLE)).encode(texts)] == tokenise(MIDDLE, texts)


def test_a_word_is_tokenised_once(monkeypatch):
    seen: list[str] = []

    def watched(texts: list[str]) -> list[list[int]]:
        seen.extend(line for text in texts for line in text.split("\n"))
        return tokenise(MIDDLE, texts)

    cut = by_words(watched)
    cut.encode(["the mother the mother", "a mother"], 1)
    cut.encode(["the other mother"], 1)
    assert sorted(seen) == ["", " a", " mother", " other", " the"]
    monkeypatch.setattr(words, "LONGEST_WORD", 3)
    cut.encode(["a brother"])
    cut.encode(["a brother"])
    assert seen.count(" brother") == 2, "long words are not kept"
    monkeypatch.setattr(words, "MOST_WORDS", 2)
    cut.encode(["a tab"])
    cut.encode(["the mother"])
    assert seen.count(" mother") == 2, "no more than so many are kept"


def _with(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    data = json.loads(json.dumps(WHOLE))
    change(data)
    return data


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["model"].update(dropout=0.1),
        lambda data: data["model"].update(ignore_merges=True),
        lambda data: data["model"].update(type="Unigram"),
        lambda data: data["model"]["merges"].append(["r", "\u2581"]),
        lambda data: data["model"]["merges"].append(["<0x0A>", "<0x0A>"]),
        lambda data: data.update(normalizer=None),
        lambda data: data.update(normalizer={"type": "NFC"}),
        lambda data: data.update(pre_tokenizer={"type": "Whitespace"}),
        lambda data: data.update(added_tokens=[{"content": "new word", "id": 999}]),
    ],
)
def test_other_tokenizers_are_left_alone(change):
    assert find_joints(_with(change)) is None


def test_merges_from_word_to_word_are_seen():
    assert find_joints(trained(across=True)) is None


def test_lines_are_cut_only_where_no_merge_joins_them():
    assert find_joints(_with(lambda data: data["model"]["merges"].append(["\n", "\n"]))) == Joints(None)
    assert find_joints(WHOLE) == Joints(WHOLE["model"]["vocab"]["\n"])
    assert find_joints(_with(lambda data: data["model"]["vocab"].pop("\n"))) == Joints(WHOLE["model"]["vocab"]["<0x0A>"])
    unknown = _with(lambda data: data["model"].update(byte_fallback=not data["model"]["vocab"].pop("\n")))
    assert find_joints(unknown) == Joints(None), "a line's end could be one token with its neighbours"
