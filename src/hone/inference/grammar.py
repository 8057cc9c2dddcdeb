"""Grammar: which tokens may come next, so that an answer is JSON of a schema. The one door to llguidance.

Does not know the model, nor how tokens are drawn.

Axes: V vocabulary.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hone.chat.codec import Codec
from hone.errors import MissingExtra, ModelError

_AROUND = "start: LEAD? body\nLEAD: /[ \\n]{1,2}/\nbody: %json "
"""The schema's JSON behind the white space that formats put before an answer."""


class Grammar:
    """`grammar.allowed()` tells what may come next, `grammar.take(id)` what came. size: V, the width of the model's logits.

    Raises: ModelError for a schema that is none, or that asks for what cannot be enforced.
    """

    def __init__(self, codec: Codec, schema: str, size: int):
        guidance, tokenizer = _tokenizer(codec, size)
        self._matcher = guidance.LLMatcher(tokenizer, _AROUND + json.dumps(json.loads(schema)), log_level=0)
        self._check()
        self._size = size

    def allowed(self) -> Tensor:
        """bool [V]; after the last brace only what ends the answer."""
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        self._check()
        places = torch.arange(8, dtype=torch.uint8)
        return (bits.unsqueeze(-1) >> places & 1).bool().flatten()[: self._size]

    def take(self, token: int) -> None:
        """The token that was drawn."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ModelError(f"response_format: this schema cannot be enforced: {self._matcher.get_error().strip()[:500]}")


@cache
def _tokenizer(codec: Codec, size: int) -> tuple[Any, Any]:
    """The library, and its own copy of the codec's tokenizer, which takes about a second for a large vocabulary."""
    try:
        import llguidance
        from llguidance.hf import from_tokenizer
    except ModuleNotFoundError as fault:
        raise MissingExtra("llguidance", "serve", "response_format") from fault
    return llguidance, from_tokenizer(codec.tokenizer, n_vocab=size, eos_token=list(codec.stop_ids))
