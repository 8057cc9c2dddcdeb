"""The tokenizer of a model, giving the ids that its own files say, with a padding token and the tokens the user added.

Does not know chat formats: templates are the chat room's.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hone import log
from hone.config.model import ModelConfig
from hone.errors import ModelError
from hone.models.place import check_folder, check_hub, explain, find_file, hub_arguments, settle
from hone.models.sentencepiece import backend_of, is_sentencepiece

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tokenizer_config.json")
_UNUSED = ("<|finetune_right_pad_id|>", "<pad>", "<|pad|>", "[PAD]", "<|endoftext|>", "<unk>", "[UNK]")
"""Tokens that serve as padding where the tokenizer names none, best first; none may be the end of sequence."""
_GAP = re.compile(r"[\s,:]*")
"""What stands between the names and values of a JSON object."""


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of `model`, local or from the hub; it pads, and holds the added tokens.

    Raises ModelError for a missing folder, a folder without tokenizer files, a hub that cannot be reached, and files that cannot
    be read.
    """
    model = settle(model)
    place = model.model_name_or_path
    check_folder(place, _FILES, "tokenizer")
    check_hub(model, "tokenizer")
    try:
        tokenizer = _load(model)
    except (OSError, ValueError, ImportError, KeyError) as problem:
        raise explain(place, "tokenizer", problem) from problem
    tokenizer.padding_side = "left"
    _add_tokens(tokenizer, model)
    _name_padding(tokenizer)
    return tokenizer


def _load(model: ModelConfig) -> PreTrainedTokenizerBase:
    place = model.model_name_or_path
    pieces = find_file(model, "tokenizer.model")
    if pieces is not None and find_file(model, "tokenizer.json") is None and is_sentencepiece(pieces):
        find_file(model, "tokenizer_config.json")  # puts it beside tokenizer.model in the hub's cache
        return _from_sentencepiece(pieces)
    arguments = hub_arguments(model)
    tokenizer = AutoTokenizer.from_pretrained(place, **arguments)
    altered = _altered_parts(tokenizer, model)
    if not altered:
        return tokenizer
    log.once(
        f"{place}: the class {type(tokenizer).__name__} would replace the {' and '.join(altered)} of tokenizer.json and so give "
        "other ids; the file is used as it is"
    )
    return PreTrainedTokenizerFast.from_pretrained(place, **arguments)


def _altered_parts(tokenizer: PreTrainedTokenizerBase, model: ModelConfig) -> list[str]:
    """Which parts of tokenizer.json the tokenizer's class has replaced: transformers 5.23 does so for LlamaTokenizer."""
    file = find_file(model, "tokenizer.json")
    if file is None or not tokenizer.is_fast:
        return []
    wanted = first_values(file.read_text(encoding="utf-8"), ("normalizer", "pre_tokenizer"))
    backend = tokenizer.backend_tokenizer
    got = {name: json.loads(part.__getstate__()) for name in wanted if (part := getattr(backend, name)) is not None}
    return [name for name, value in wanted.items() if _plain(value) != _plain(got.get(name))]


def first_values(text: str, names: tuple[str, ...]) -> dict[str, Any]:
    """The values of `names` in the JSON object `text`, None for one it lacks; nothing behind the last of them is read.

    A vocabulary, which stands behind them, takes longer to read than all else of a tokenizer.
    """
    found: dict[str, Any] = dict.fromkeys(names)
    wanted, decoder, place = set(names), json.JSONDecoder(), text.index("{") + 1
    while wanted and text[place := _GAP.match(text, place).end()] != "}":
        name, place = decoder.raw_decode(text, place)
        value, place = decoder.raw_decode(text, _GAP.match(text, place).end())
        if name in wanted:
            found[name] = value
            wanted.remove(name)
    return found


def _plain(part: Any) -> Any:
    """A part of tokenizer.json without the fields that the library adds when it writes a file back."""
    if isinstance(part, dict):
        return {name: _plain(value) for name, value in part.items() if name not in ("use_regex", "trim_offsets")}
    return [_plain(item) for item in part] if isinstance(part, list) else part


def _from_sentencepiece(file: Path) -> PreTrainedTokenizerBase:
    """Built from tokenizer.model itself: transformers 5.23 gives wrong ids for repeated spaces there."""
    folder = file.parent
    backend, names = backend_of(file)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in ("tokenizer_class", "auto_map", "added_tokens_decoder", "sp_model_kwargs"):
        settings.pop(name, None)
    settings = {**names, **{name: value for name, value in settings.items() if value is not None}}
    log.once(f"{folder}: there is no tokenizer.json; the tokenizer is built from tokenizer.model")
    return PreTrainedTokenizerFast(tokenizer_object=backend, name_or_path=str(folder), **settings)


def _add_tokens(tokenizer: PreTrainedTokenizerBase, model: ModelConfig) -> None:
    for names, special in ((model.add_tokens, False), (model.add_special_tokens, True)):
        new = [AddedToken(name, special=special, normalized=not special) for name in names]
        if new:
            added = tokenizer.add_tokens(new, special_tokens=special)
            log.once(f"{added} of {len(new)} {'special ' if special else ''}tokens are new to the vocabulary: {', '.join(names)}")


def _name_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Padding must not be the end of sequence where that can be helped: whoever masks padding would mask the stop token."""
    if tokenizer.pad_token_id is not None:
        return
    if tokenizer.eos_token is None:
        raise ModelError(f"{tokenizer.name_or_path}: the tokenizer names neither a padding nor an end-of-sequence token")
    vocabulary = tokenizer.get_vocab()
    reserved = sorted(name for name in vocabulary if name.startswith("<|reserved_special_token_"))
    free = [name for name in (*_UNUSED, *reserved[:1], tokenizer.unk_token) if name in vocabulary and name != tokenizer.eos_token]
    tokenizer.pad_token = free[0] if free else tokenizer.eos_token
    log.once(f"{tokenizer.name_or_path}: no padding token; {tokenizer.pad_token} pads")
