"""Tokenizers give the ids their own files say, pad with something harmless, and fail with words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from hone.config.model import ModelConfig
from hone.errors import ModelError
from hone.models.sentencepiece import backend_of, read
from hone.models.tokenizer import first_values, load_tokenizer

VECTORS = {"llama-2": "llama-spm", "llama-3.1": "llama-bpe", "qwen3": "qwen2", "deepseek-llm-7b": "deepseek-llm"}


def load(folder: Path, **settings):
    return load_tokenizer(ModelConfig(model_name_or_path=str(folder), **settings))


def vectors(shared: Path, name: str) -> list[tuple[str, list[int]]]:
    folder = shared / "tokenizer_vectors" / "llama.cpp"
    with (folder / "cases.inp").open(encoding="utf-8", newline="") as file:
        texts = file.read().split("\n__ggml_vocab_test__\n")
    rows = (folder / f"{name}.out").read_text().split("\n")
    assert len(texts) == 47  # 46, and nothing behind the last of them
    return [(text, [int(number) for number in row.split()]) for text, row in zip(texts, rows, strict=True)]


@pytest.mark.parametrize("name", VECTORS)
def test_real_tokenizers_give_the_published_ids(shared, name):
    tokenizer = load(shared / "tokenizers" / name)
    for text, ids in vectors(shared, VECTORS[name]):
        assert tokenizer.encode(text, add_special_tokens=False) == ids, text


def test_mistral_gives_the_ids_of_its_own_file(shared):
    """llama.cpp publishes none for it; its decoder takes a space from the beginning, as the file says."""
    folder = shared / "tokenizers" / "mistral-7b-v0.3"
    tokenizer, own = load(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text, _ in vectors(shared, "llama-spm"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == own.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == own.decode(ids, skip_special_tokens=False)


def test_a_folder_that_names_the_llama_class_keeps_the_file_s_ids(shared, tmp_path, capsys):
    """transformers 5.23 puts its own handling of spaces in place of tokenizer.json's: " a" would lose its first token."""
    folder = tmp_path / "named"
    shutil.copytree(shared / "tokenizers" / "llama-2", folder, copy_function=shutil.copy)
    path = folder / "tokenizer_config.json"
    path.chmod(0o644)
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "LlamaTokenizer"}))
    tokenizer = load(folder)
    for text, ids in vectors(shared, "llama-spm"):
        assert tokenizer.encode(text, add_special_tokens=False) == ids, text
    assert tokenizer.encode(" a", add_special_tokens=False) == [29871, 263]
    assert "LlamaTokenizer would replace" in capsys.readouterr().err


def test_a_bare_tokenizer_model_gives_sentencepiece_s_ids(shared, tmp_path, capsys):
    shutil.copy(shared / "tokenizers" / "llama-2" / "tokenizer.model", tmp_path)
    tokenizer = load(tmp_path)
    for text, ids in vectors(shared, "llama-spm"):
        assert tokenizer.encode(text, add_special_tokens=False) == ids, text
        assert tokenizer.decode(ids) == text
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    assert tokenizer.encode("hi")[0] == tokenizer.bos_token_id
    assert tokenizer.convert_tokens_to_ids("</s>") == tokenizer.encode("</s>", add_special_tokens=False)[0] == 2
    assert "built from tokenizer.model" in capsys.readouterr().err


def test_a_bare_tokenizer_model_equals_the_converted_file_on_real_text(shared):
    mine, _ = backend_of(shared / "tokenizers" / "llama-2" / "tokenizer.model")
    theirs = Tokenizer.from_file(str(shared / "tokenizers" / "llama-2" / "tokenizer.json"))
    rows = json.loads((shared / "llamafactory" / "alpaca_zh_demo.json").read_text())[:150]
    rows += json.loads((shared / "llamafactory" / "alpaca_en_demo.json").read_text())[:150]
    for row in rows:
        text = f"  {row['instruction']}\n\n{row['output']} "
        assert mine.encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False).ids


def piece(text: str, score: float, kind: int = 1) -> bytes:
    import struct

    data = text.encode()
    body = bytes([0x0A, len(data)]) + data + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind])
    return bytes([0x0A, len(body)]) + body


UNIGRAM = [
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    ("\u2581", -3.0, 1),
    ("a", -2.0, 1),
    ("b", -2.0, 1),
    ("ab", -1.0, 1),
]


def test_a_small_unigram_model_written_by_hand(tmp_path):
    """The likeliest pieces of "ab b" with a space put before: "_", "ab", "_", "b"; two spaces are one, as the file asks."""
    path = tmp_path / "tokenizer.model"
    trainer, normalizer = bytes([0x12, 2, 0x18, 1]), bytes([0x1A, 4, 0x18, 1, 0x20, 1])
    path.write_bytes(b"".join(piece(*row) for row in UNIGRAM) + trainer + normalizer)
    found = read(path)
    assert found.pieces[6] == ("ab", -1.0, 1)
    tokenizer = load(tmp_path)
    assert tokenizer.encode("ab  b", add_special_tokens=False) == [3, 6, 3, 5]
    assert tokenizer.encode("ab")[0] == 1


@pytest.mark.parametrize("content", [b"\n\xff", b"\n\x02\x15", b"\n\x03\x0f\x00\x00"])
def test_a_broken_tokenizer_model_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ModelError, match="not a SentencePiece model"):
        load(tmp_path)


def test_padding_is_not_the_end_of_sequence_where_that_can_be_helped(shared, capsys):
    assert load(shared / "tokenizers" / "llama-2").pad_token == "<unk>"
    assert load(shared / "tokenizers" / "llama-3.1").pad_token == "<|finetune_right_pad_id|>"
    assert "no padding token; <unk> pads" in capsys.readouterr().err


def test_padding_falls_back_to_the_end_of_sequence(tiny_tokenizer_dir, tmp_path):
    shutil.copytree(tiny_tokenizer_dir, tmp_path / "t")
    path = tmp_path / "t" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("pad_token")
    path.write_text(json.dumps(settings))
    assert load(tmp_path / "t").pad_token == "<|pad|>"  # held, though not named
    file = tmp_path / "t" / "tokenizer.json"
    file.write_text(file.read_text().replace("<|pad|>", "<|odd|>"))
    assert load(tmp_path / "t").pad_token == "<|im_end|>"


def test_added_tokens_are_one_id_each(tiny_tokenizer_dir, tiny_tokenizer):
    tokenizer = load(tiny_tokenizer_dir, add_tokens=("<mg>",), add_special_tokens=("<|svg|>", "<|im_end|>"))
    assert len(tokenizer) == len(tiny_tokenizer) + 2
    ids = tokenizer.encode("5<mg>x<|svg|>", add_special_tokens=False)
    assert ids.count(tokenizer.convert_tokens_to_ids("<mg>")) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "5<mg>x"


def test_mistakes_are_named(tmp_path, tiny_model_dir):
    with pytest.raises(ModelError, match="does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no tokenizer .*it holds nothing"):
        load(tmp_path / "empty")
    with pytest.raises(ModelError, match="is a file"):
        load(tiny_model_dir / "config.json")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load(tmp_path / "broken")
    with pytest.raises(ModelError, match="there is no such folder here"):
        load_tokenizer(ModelConfig(model_name_or_path="nobody/nothing"))


@pytest.mark.parametrize("indent", [None, 2])
def test_values_are_read_no_further_than_the_last_of_them(indent):
    told = {"a": {"b": [1, '"b": 2']}, "b": None, "c": [{}], "b ": 3}
    text = json.dumps(told, indent=indent)
    assert first_values(text, ("b", "c", "z")) == {"b": None, "c": [{}], "z": None}
    assert first_values(text[: text.index('"b ')] + "broken", ("c", "a")) == {"c": [{}], "a": told["a"]}
    assert first_values("{ }", ("a",)) == {"a": None}
