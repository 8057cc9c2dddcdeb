"""A stand-in tokenizer: every byte a token, with the control tokens a chat format needs, where no model's own is at hand.

Does not know chat formats: it is told the tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


def stand_in_tokenizer(bos: str, eos: str, tokens: Iterable[str]) -> PreTrainedTokenizerBase:
    """A tokenizer of 256 bytes, then `bos`, `eos` and `tokens`; it puts bos before a text by itself, unless bos is ''."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos or None, eos_token=eos, pad_token="<|pad|>")
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [token for token in dict.fromkeys(tokens) if token not in (bos, eos)]}
    )
    if bos:
        # Under a name of its own: a colon in the token (<seed:bos>) would be read as the template's.
        opened = [{"id": "bos", "ids": [tokenizer.bos_token_id], "tokens": [bos]}]
        backend = tokenizer.backend_tokenizer
        backend.post_processor = processors.TemplateProcessing(single="bos $A", pair="bos $A $B", special_tokens=opened)
    return tokenizer
