"""An engine out of the settings: tokenizer, codec, model and adapters in the order that every use of a model needs them.

Does not know what will be asked.
"""

from __future__ import annotations

from pathlib import Path

import torch

from hone import log
from hone.adapters.apply import attach
from hone.adapters.folder import folders_of
from hone.chat.codec import Codec
from hone.config.adapter import Adapter
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.config.serve import ServeConfig
from hone.config.trained import other_than_trained
from hone.errors import ModelError, at_once
from hone.inference.codec import load_codec
from hone.inference.hf import HfEngine
from hone.inference.llamacpp import build_llamacpp_engine, find_gguf
from hone.inference.names import looks
from hone.inference.rows import why_not
from hone.inference.servers.engine import ServerEngine
from hone.inference.servers.launch import SERVERS, Room, build_server_engine, only_adapter, refuse_unfit
from hone.inference.together import TogetherEngine
from hone.models.load import load_config, load_model
from hone.models.media.reader import load_reader
from hone.models.place import settle
from hone.models.score_head import FILE as SCORE_FILE
from hone.models.score_head import find_score_head
from hone.models.value_head import find_value_head, learned_by

_HERE = ServeConfig()


def build_engine(
    model: ModelConfig,
    chat: ChatConfig,
    adapter: Adapter,
    *,
    serve: ServeConfig = _HERE,
    length: int | None = None,
    num_together: int = 1,
    num_adapters: int = 0,
) -> HfEngine:
    """The engine in this process, adapters on top of the base; of a GGUF file, llama.cpp's; or a server's, as serve has it.

    length: the training's cutoff_len, by which rope_scaling stretches; None: twice the base's limit. num_together: answers that
    are drawn at once where the model's answers can be; where they cannot, that is said, and they are drawn one by one.
    num_adapters: those that may come beside the base, for which a server is to hold room.

    Raises: ModelError, TemplateError where something of it cannot be loaded or does not fit.
    """
    if (file := find_gguf(model, serve.infer_backend)) is not None:
        return _of_gguf(model, chat, adapter, file, num_together)
    at_once(looks(chat, adapter))
    _refuse_writing_nothing(model, adapter)
    for line in other_than_trained(model, adapter, chat):
        log.once(f"note: {line}")
    codec = load_codec(model, chat, reader=load_reader(model))
    if serve.infer_backend in SERVERS:
        return _of_server(model, codec, adapter, serve, num_together, num_adapters)
    dtype = choose_dtype(model, serve.infer_dtype)
    module = load_model(model, dtype=dtype, device=choose_device(), for_training=False, length=length)
    module = attach(module, adapter, base_name=model.model_name_or_path, trainable=False).eval()
    name = model.model_name_or_path
    engine = HfEngine(module, codec, base_name=name)
    if num_together == 1:
        return engine
    if why := why_not(module):
        log.info(f"note: answers of this model are drawn one by one, not {num_together} at once: {why}")
        return engine
    return TogetherEngine(module, codec, num_rows=num_together, base_name=name)


def _of_server(
    model: ModelConfig, codec: Codec, adapter: Adapter, serve: ServeConfig, num_together: int, num_adapters: int
) -> ServerEngine:
    refuse_unfit(model, serve.infer_backend)
    base = only_adapter(folders_of(adapter), serve.infer_backend)
    held = load_config(model).get_text_config().to_dict().get("max_position_embeddings")
    room = Room(choose_dtype(model, serve.infer_dtype), held, base, num_adapters + (base is not None))
    return build_server_engine(settle(model, weights=True), codec, serve, room, num_together=num_together)


def _of_gguf(model: ModelConfig, chat: ChatConfig, adapter: Adapter, file: Path, num_together: int) -> HfEngine:
    if folders := folders_of(adapter):
        raise ModelError(
            f"adapter_name_or_path: {folders[0]} is not put onto a GGUF file; merge it: hone export with export_format: gguf"
        )
    if num_together > 1:
        log.info(f"note: answers of a GGUF file are drawn one by one, not {num_together} at once")
    return build_llamacpp_engine(model, chat, file)


def _refuse_writing_nothing(model: ModelConfig, adapter: Adapter) -> None:
    """A reward or embedding model would answer, and nothing would say that it has unlearned to write."""
    adapters = folders_of(adapter)
    for folder in (Path(model.model_name_or_path), *adapters):
        if (folder / "modules.json").is_file():
            raise ModelError(f"{folder} is an embedding model (stage: embed): it gives vectors of texts and no answers")
    if (head := find_score_head(model, adapters)) is not None:
        of = [one for one in adapters if (one / SCORE_FILE).is_file()]
        what, stage = ("a reranker", "rerank") if head.text else ("a classifier", "classify")
        raise ModelError(
            f"{of[-1] if of else model.model_name_or_path} is {what} (stage: {stage}): it scores texts and gives no answers; use "
            f"hone.inference.classify.build_{what.split()[1]}"
        )
    file = find_value_head(model, adapters)
    if file is None:
        return
    learned = learned_by(file)
    if learned == "reward":
        raise ModelError(
            f"{file.parent} is a reward model (stage: rm): it scores answers and gives none. Name the model it shall judge, or "
            "score with hone.inference.score.build_scorer"
        )
    if not learned:
        log.once(f"note: {file} is of a reward model or of PPO and does not say which; a reward model's answers mean nothing")


def choose_dtype(model: ModelConfig, name: str, *, scores: bool = False) -> torch.dtype:
    """torch's type for infer_dtype; "auto" is what the base's config.json says, fp32 where it says nothing.

    scores: as for load_config.
    """
    if name != "auto":
        return getattr(torch, name)
    return load_config(model, scores=scores).dtype or torch.float32


def choose_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
