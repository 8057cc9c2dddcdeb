"""How a tokenizer cuts text is recognised by what it does, not by its name."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from hone.errors import ExportError
from hone.export.gguf.vocabulary import recognise
from hone.models.tokenizer import first_values

KNOWN = [("llama-3.1", True, "llama-bpe"), ("qwen3", False, "qwen2"), ("deepseek-llm-7b", False, "deepseek-llm")]


@pytest.mark.parametrize(("name", "whole_words", "wanted"), KNOWN)
def test_real_tokenizers(shared, name, whole_words, wanted) -> None:
    """The head of tokenizer.json alone is read; the vocabulary does not matter."""
    text = (shared / "tokenizers" / name / "tokenizer.json").read_text(encoding="utf-8")
    part = first_values(text, ("pre_tokenizer",))["pre_tokenizer"]
    empty = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}, "pre_tokenizer": part}
    assert recognise(Tokenizer.from_str(json.dumps(empty)).pre_tokenizer, whole_words=whole_words) == wanted


def test_the_same_cuts_with_and_without_merging_whole_words() -> None:
    assert recognise(pre_tokenizers.ByteLevel(add_prefix_space=False), whole_words=False) == "gpt-2"


def test_another_way_is_refused() -> None:
    with pytest.raises(ExportError, match="no pre-tokenizer"):
        recognise(pre_tokenizers.Whitespace(), whole_words=False)
