"""A model's codec: its tokenizer, and the chat format of the settings, or of its family.

Does not know what is written or read by it.
"""

from __future__ import annotations

from hone.chat.codec import Codec, build_codec
from hone.chat.shown import Reader
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.models.catalog import family_template
from hone.models.tokenizer import load_tokenizer


def load_codec(model: ModelConfig, chat: ChatConfig, *, reader: Reader | None = None) -> Codec:
    """reader: prepares what the model is shown; None for text alone.

    Raises: ModelError where there is no tokenizer; TemplateError where the format does not fit it."""
    return build_codec(chat, load_tokenizer(model), family=family_template(model.model_name_or_path), reader=reader)
