"""Preview: what a use of a model needs, looked up before a weight is loaded: its files, chat format, adapters and engine.

Does not know who will ask, nor what an export writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hone.adapters.folder import folders_of, locate
from hone.chat.codec import Codec
from hone.chat.laws import LawResult, format_faults, law_lines, laws_of
from hone.chat.message import Conversation, message
from hone.config.adapter import Adapter
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.config.serve import ServeConfig
from hone.config.trained import other_than_trained
from hone.errors import HoneError
from hone.inference.codec import load_codec
from hone.inference.llamacpp import find_gguf
from hone.inference.servers.launch import SERVERS, require_server
from hone.models.load import load_config
from hone.models.media.reader import load_reader
from hone.models.score_head import find_score_head

T = TypeVar("T")
_ASKED = Conversation((message("user", "What is the capital of France?"),))


@dataclass
class Preview:
    """What was found. facts: by name, for people; prompt: what a question becomes; faults: reasons why it would not work."""

    facts: dict[str, str] = field(default_factory=dict)
    prompt: str = ""
    laws: list[LawResult] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def tried(self, look: Callable[[], T]) -> T | None:
        """What `look` gives; None where it raises, which is a fault."""
        try:
            return look()
        except HoneError as problem:
            if str(problem) not in self.faults:
                self.faults.append(str(problem))
            return None

    def lines(self) -> list[str]:
        """For people."""
        facts = [f"{name:<13}{text}" for name, text in self.facts.items()]
        asked = ["", "a question becomes", self.prompt] if self.prompt else []
        laws = ["", "laws of the chat format", *law_lines(self.laws)] if self.laws else []
        return [*facts, *asked, *laws, "", *verdict(self.warnings, self.faults)]

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        return {**vars(self), "laws": [vars(law) for law in self.laws]}


def verdict(warnings: Iterable[str], faults: Iterable[str], good: str = "no fault found") -> list[str]:
    """How a check ends, for people. good: what is said where there is no fault."""
    return [*(f"warning: {line}" for line in warnings), *([f"fault: {line}" for line in faults] or [good])]


def preview(
    model: ModelConfig, chat: ChatConfig, adapter: Adapter, serve: ServeConfig, *, beside: Iterable[str] = (), use: str
) -> Preview:
    """Look up all of it; one fault hides no other. beside: folders of adapters that requests may name; use: the command."""
    found = Preview({"for": f"hone {use}, as these settings name no data to train on"})
    file = found.tried(partial(find_gguf, model, serve.infer_backend))
    folders = found.tried(partial(folders_of, adapter)) or []
    if file is None:
        scores = found.tried(partial(find_score_head, model, folders)) is not None and use == "export"
        config = found.tried(partial(load_config, model, scores=scores))
        found.facts["model"] = model.model_name_or_path + (f", a {config.model_type}" if config is not None else "")
        if config is not None:
            _look_at_format(found, lambda: load_codec(model, chat, reader=load_reader(model, scores=scores)))
    else:
        found.facts["model"] = f"{file}, run by llama.cpp"
        beside_it = model.model_copy(update={"model_name_or_path": str(file.parent)})
        _look_at_format(found, partial(load_codec, beside_it, chat))
    for name in beside:
        found.tried(partial(locate, name, key="api_adapters"))
    if folders:
        found.facts["adapters"] = ", ".join(map(str, folders))
    found.warnings += other_than_trained(model, adapter, chat)
    if use != "export":
        found.facts["engine"] = _engine_of(found, model, serve, file, folders)
    return found


def _look_at_format(found: Preview, load: Callable[[], Codec]) -> None:
    codec = found.tried(load)
    if codec is None:
        return
    found.facts["chat format"] = codec.template.name
    found.prompt = codec.template.render(_ASKED, prompt=True).text
    found.laws = laws_of(codec)
    found.faults += format_faults(codec, found.laws)


def _engine_of(found: Preview, model: ModelConfig, serve: ServeConfig, file: Path | None, folders: list[Path]) -> str:
    """Which one answers, in words; what it lacks is a fault."""
    if serve.infer_backend not in SERVERS:
        return "llama.cpp, in a child process" if file is not None else "transformers, in this process"
    program = found.tried(partial(require_server, model, serve, folders))
    return f"{serve.infer_backend}, {program or 'a server'}"
