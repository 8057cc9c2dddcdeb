"""The words after `hone render` and `hone laws`: a template, a tokenizer, and settings of the chat section.

Does not know what is done with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from hone.chat.codec import Codec
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.errors import HoneError
from hone.inference.codec import load_codec as load_codec_of
from hone.table import nearest

_FLAGS = ("json",)
_PLACES = ("tokenizer", "officials")


@dataclass(frozen=True)
class Words:
    """rest: words that are no option; settings: option to value; flags: options without one."""

    rest: tuple[str, ...]
    settings: dict[str, str]
    flags: frozenset[str]


def read(arguments: list[str], verb: str) -> Words:
    """`--key value`, `--key=value` and `key=value` are settings; raises HoneError for what is not known."""
    rest: list[str] = []
    settings: dict[str, str] = {}
    flags: set[str] = set()
    known = [*_PLACES, *_FLAGS, *ChatConfig.model_fields]
    words = iter(arguments)
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        is_option = word.startswith("--") or (equals and key in known)
        if not is_option:
            rest.append(word)
        elif key not in known:
            raise HoneError(f"unknown option {word}{nearest(key, known)}; hone help {verb} lists them")
        elif key in _FLAGS and not equals:
            flags.add(key)
        else:
            found = value if equals else next(words, None)
            if found is None:
                raise HoneError(f"option --{key} needs a value")
            settings[key] = found
    return Words(tuple(rest), settings, frozenset(flags))


def load_codec(words: Words, verb: str) -> Codec:
    """The codec of --template (the tokenizer's own without it) and --tokenizer; raises HoneError for a wrong one."""
    if "tokenizer" not in words.settings:
        raise HoneError(f"name the tokenizer's folder or hub id: hone {verb} --tokenizer DIR")
    values = {key: _value(key, text) for key, text in words.settings.items() if key not in _PLACES}
    try:
        chat = ChatConfig(**values)
    except ValueError as error:  # pydantic's: a headline, then the setting and what is wrong with it
        raise HoneError(": ".join(line.strip() for line in str(error).splitlines()[1:3])) from error
    place = words.settings["tokenizer"]
    return load_codec_of(ModelConfig(model_name_or_path=place), chat)


def _value(key: str, text: str) -> object:
    is_text = key in ("template", "default_system", "tool_format")
    return text if is_text else yaml.safe_load(text)
