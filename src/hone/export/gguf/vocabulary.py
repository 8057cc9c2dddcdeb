"""A tokenizer in GGUF's words, so that llama.cpp gives the ids that the model was trained on.

Does not know weights nor formats. Which of llama.cpp's ways to cut a text before merging a tokenizer has is found by what it does
to a text, held against `pre_tokenizers.toml`; whether the ids are the same in the end is parity's to say.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from hone.chat.codec import Codec
from hone.chat.template import adds_bos
from hone.errors import ExportError
from hone.export.gguf.families import Value
from hone.models.sentencepiece import is_sentencepiece
from hone.models.sentencepiece import read as read_pieces

_NORMAL, _UNKNOWN, _CONTROL, _OWN, _UNUSED, _BYTE = range(1, 7)
"""gguf's types of tokens."""
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_PROBE = (
    "Hello world, it's 12345 o'clock; we'LL see I'VE  3 spaces\n\n  \t x=1_000.50 // no?!\r\n "
    "\u4f60\u597d\uff0c\u4e16\u754c 2026\u5e74 \u00dcber stra\u00dfe \u0438 \u0441\u043b\u043e\u0432\u043e na\u00efve "
    "caf\u0065\u0301 CamelCaseHTTP \U0001f600\U0001f680 ... <div>\ndef f(a,b):\n    return a+b  # \u0e17\u0e14\u0e2a\u0e2d\u0e1a "
    "\u0928\u092e\u0938\u094d\u0924\u0947\n\n\n"
)


@dataclass(frozen=True)
class _Parts:
    """tokenizer.json, opened. kind: "gpt2" for pairs of bytes that are merged, "llama" for SentencePiece's pieces."""

    whole: dict[str, Any]
    kind: str

    @property
    def model(self) -> dict[str, Any]:
        """Vocabulary and merges."""
        return self.whole["model"]


def vocabulary_settings(
    tokenizer: PreTrainedTokenizerBase, codec: Codec, size: int, base: Path, template: str | None
) -> dict[str, Value]:
    """What the file says of the tokenizer. size: rows of the embeddings; base: the folder the tokenizer is of.

    template: Jinja of the chat template. Raises: ExportError for a tokenizer of a kind that llama.cpp has not.
    """
    parts = _open(tokenizer)
    tokens, kinds = _tokens(tokenizer, parts, size)
    said: dict[str, Value] = {"tokenizer.ggml.model": parts.kind, "tokenizer.ggml.tokens": tokens}
    if parts.kind == "gpt2":
        whole_words = bool(parts.model.get("ignore_merges"))
        pre = recognise(tokenizer.backend_tokenizer.pre_tokenizer, whole_words=whole_words)
        said |= {"tokenizer.ggml.pre": pre, "tokenizer.ggml.merges": _merges(parts)}
    else:
        said |= {"tokenizer.ggml.pre": "default", "tokenizer.ggml.scores": _scores(parts, tokens, base)}
        said |= {"tokenizer.ggml.add_space_prefix": _adds_space(parts)}
    said |= {"tokenizer.ggml.token_type": kinds, "tokenizer.ggml.add_bos_token": adds_bos(tokenizer)}
    said |= {"tokenizer.ggml.add_eos_token": False} | _special(tokenizer, codec)
    return said | ({"tokenizer.chat_template": template} if template else {})


def _open(tokenizer: PreTrainedTokenizerBase) -> _Parts:
    if not tokenizer.is_fast:
        raise ExportError("the tokenizer has no tokenizer.json, of which its GGUF form is made")
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    kind, fallback = whole["model"]["type"], whole["model"].get("byte_fallback")
    if kind == "BPE" and _has_bytes(whole.get("pre_tokenizer")):
        return _Parts(whole, "gpt2")
    if kind == "BPE" and fallback:
        return _Parts(whole, "llama")
    without = "" if fallback else " without bytes for unknown characters"
    raise ExportError(f"a tokenizer of kind {kind}{without} is not written to GGUF")


def _has_bytes(part: Any) -> bool:
    """Whether a part of tokenizer.json turns text into bytes before it is merged."""
    return "ByteLevel" in json.dumps(part)


def _tokens(tokenizer: PreTrainedTokenizerBase, parts: _Parts, size: int) -> tuple[list[str], list[int]]:
    """The spelling and the type of every id; ids that no token has are unused."""
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    if max(names) >= size:
        raise ExportError(f"the tokenizer has {max(names) + 1} tokens and the embeddings {size} rows: write resize_vocab: true")
    added = tokenizer.added_tokens_decoder
    unknown = parts.model.get("unk_token")
    tokens = [names.get(number, f"[PAD{number}]") for number in range(size)]
    kinds = []
    for number, token in enumerate(tokens):
        if number not in names:
            kinds.append(_UNUSED)
        elif parts.kind == "llama" and token == unknown:
            kinds.append(_UNKNOWN)
        elif number in added:
            kinds.append(_CONTROL if added[number].special else _OWN)
        elif parts.kind == "llama" and _BYTE_TOKEN.fullmatch(token):
            kinds.append(_BYTE)
        else:
            kinds.append(_NORMAL)
    return tokens, kinds


def _merges(parts: _Parts) -> list[str]:
    return [one if isinstance(one, str) else " ".join(one) for one in parts.model["merges"]]


def _scores(parts: _Parts, tokens: list[str], base: Path) -> list[float]:
    """Of each piece, the higher the sooner it is joined: SentencePiece's own where its file is there, else the merges' order."""
    file = base / "tokenizer.model"
    if file.is_file() and is_sentencepiece(file):
        pieces = read_pieces(file).pieces
        known = {text: score for text, score, _ in pieces}
    else:
        known = {}
        for rank, pair in enumerate(parts.model["merges"]):
            left, right = pair.split(" ") if isinstance(pair, str) else pair
            known.setdefault(left + right, -float(rank))
    return [known.get(token, -1e4 if token in parts.model["vocab"] else -1000.0) for token in tokens]


def _adds_space(parts: _Parts) -> bool:
    """Whether a space stands before every piece of text, also behind a control token: llama.cpp puts it there or nowhere."""
    normalizer = json.dumps(parts.whole.get("normalizer"))
    cut = json.dumps(parts.whole.get("pre_tokenizer"))
    return '"Prepend"' in normalizer or '"prepend_scheme": "always"' in cut


def _special(tokenizer: PreTrainedTokenizerBase, codec: Codec) -> dict[str, Value]:
    """Ids with a duty: what begins a text, what ends an answer of the trained format, what pads."""
    first, *others = codec.stop_ids
    said: dict[str, Value] = {"tokenizer.ggml.eos_token_id": first}
    if others:
        said["tokenizer.ggml.eot_token_id"] = others[0]
    named = {"bos": tokenizer.bos_token_id, "unknown": tokenizer.unk_token_id, "padding": tokenizer.pad_token_id}
    return said | {f"tokenizer.ggml.{name}_token_id": number for name, number in named.items() if number is not None}


def recognise(cutter: pre_tokenizers.PreTokenizer, *, whole_words: bool) -> str:
    """llama.cpp's name of the way in which a tokenizer cuts text before it merges. whole_words: see pre_tokenizers.toml.

    Raises: ExportError where it has none such.
    """
    pieces = _cut(cutter)
    fitting = [way for way in _ways() if way["pieces"] == pieces]
    if not fitting:
        shown = " | ".join(pieces[:12])
        raise ExportError(
            f"llama.cpp has no pre-tokenizer that hone knows of which cuts text as this tokenizer does: {shown} ..."
        )
    return next((way["name"] for way in fitting if way.get("whole_words", False) == whole_words), fitting[0]["name"])


@cache
def _ways() -> list[dict[str, Any]]:
    """The rows of pre_tokenizers.toml, each with the pieces that it cuts the probe into."""
    found = tomllib.loads((files("hone.export.gguf") / "pre_tokenizers.toml").read_text(encoding="utf-8"))
    return [{"name": name, **row, "pieces": _cut(_built(row))} for name, row in found.items()]


def _built(row: dict[str, Any]) -> pre_tokenizers.PreTokenizer:
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in row.get("patterns", ())]
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=row.get("words", False))
    return pre_tokenizers.Sequence([*steps, plain])


def _cut(cutter: pre_tokenizers.PreTokenizer) -> list[str]:
    return [piece for piece, _ in cutter.pre_tokenize_str(_PROBE)]
