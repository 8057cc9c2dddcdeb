"""SentencePiece's tokenizer.model read without its library, and the same tokenizer built from it.

Does not know models or templates. The file is a protocol buffer: google/sentencepiece, src/sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

from hone.errors import ModelError

_NORMAL, _UNKNOWN, _CONTROL, _USER, _BYTE = 1, 2, 3, 4, 6
_UNIGRAM, _BPE = 1, 2
_SPACE = "\u2581"


@dataclass
class Pieces:
    """What the file says. pieces: (text, score, type), the index is the id."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    model_type: int = _UNIGRAM
    byte_fallback: bool = False
    dummy_prefix: bool = True
    remove_extra_spaces: bool = True
    charsmap: bytes = b""


def read(path: Path) -> Pieces:
    """Parse a tokenizer.model; ModelError where it is not one."""
    found = Pieces()
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                found.pieces.append(_piece(value))
            elif number == 2:
                _read_trainer(value, found)
            elif number == 3:
                _read_normalizer(value, found)
    except (IndexError, ValueError, TypeError, struct.error) as problem:
        raise ModelError(f"{path} is not a SentencePiece model: {problem}") from problem
    if not found.pieces:
        raise ModelError(f"{path} is not a SentencePiece model: it holds no pieces")
    return found


def is_sentencepiece(path: Path) -> bool:
    """Whether a tokenizer.model is SentencePiece's; Llama 3's is a list of tiktoken ranks."""
    with path.open("rb") as file:
        return file.read(1) == b"\n"  # field 1, a piece: every SentencePiece model starts so


def backend_of(path: Path) -> tuple[Tokenizer, dict[str, str]]:
    """The tokenizer that gives SentencePiece's ids for that file, and its bos, eos and unk tokens by transformers' names."""
    found = read(path)
    tokenizer = Tokenizer(_bpe(found) if found.model_type == _BPE else _unigram(found, path))
    steps = [normalizers.Precompiled(found.charsmap)] if found.charsmap else []
    if found.remove_extra_spaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(_SPACE)] if found.dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    undo = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(undo + ([decoders.Strip(" ", 1, 0)] if found.dummy_prefix else []))
    special = [text for text, _, kind in found.pieces if kind in (_CONTROL, _UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text, _, kind in found.pieces if kind == _USER])
    names = _names(found)
    if "bos_token" in names:
        bos = names["bos_token"]
        ids = [(bos, tokenizer.token_to_id(bos))]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=ids
        )
    return tokenizer, names


def _names(found: Pieces) -> dict[str, str]:
    """The usual names of the control pieces; a tokenizer_config.json beside the file overrules them."""
    control = {text for text, _, kind in found.pieces if kind == _CONTROL}
    unknown = [text for text, _, kind in found.pieces if kind == _UNKNOWN]
    usual = {"bos_token": ("<s>", "<bos>"), "eos_token": ("</s>", "<eos>"), "pad_token": ("<pad>",)}
    names = {name: text for name, texts in usual.items() for text in texts if text in control}
    return {**names, "unk_token": unknown[0]} if unknown else names


def _bpe(found: Pieces) -> models.BPE:
    """Merges are all splits of a piece into two pieces, in the order in which the pieces' scores let SentencePiece join them."""
    vocabulary = {text: number for number, (text, _, _) in enumerate(found.pieces)}
    scores = {text: score for text, score, kind in found.pieces if kind in (_NORMAL, _USER)}
    merges: list[tuple[float, int, int, str, str]] = []
    for text, score in scores.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in scores and right in scores:
                merges.append((-score, vocabulary[left], vocabulary[right], left, right))
    merges.sort(key=lambda merge: merge[:3])
    unknown = next((text for text, _, kind in found.pieces if kind == _UNKNOWN), None)
    pairs = [(left, right) for _, _, _, left, right in merges]
    return models.BPE(vocabulary, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=found.byte_fallback)


def _unigram(found: Pieces, path: Path) -> models.Unigram:
    if found.model_type != _UNIGRAM:
        raise ModelError(f"{path}: a SentencePiece model of type {found.model_type}; only BPE and unigram models are read")
    unknown = next(number for number, (_, _, kind) in enumerate(found.pieces) if kind == _UNKNOWN)
    return models.Unigram([(text, score) for text, score, _ in found.pieces], unknown, found.byte_fallback)


def _piece(message: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, _NORMAL
    for number, value in _fields(message):
        if number == 1:
            text = value.decode("utf-8")
        elif number == 2:
            (score,) = struct.unpack("<f", value)
        elif number == 3:
            kind = value
    return text, score, kind


def _read_trainer(message: bytes, found: Pieces) -> None:
    for number, value in _fields(message):
        if number == 3:
            found.model_type = value
        elif number == 35:
            found.byte_fallback = bool(value)


def _read_normalizer(message: bytes, found: Pieces) -> None:
    for number, value in _fields(message):
        if number == 2:
            found.charsmap = value
        elif number == 3:
            found.dummy_prefix = bool(value)
        elif number == 4:
            found.remove_extra_spaces = bool(value)


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(field number, value) of a protocol buffer message: an int for varints, bytes for the rest."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(message):
            raise ValueError(f"it ends at byte {len(message)} inside a field")
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
