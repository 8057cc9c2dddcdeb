"""How far the same log-probs, computed in two ways that are one in exact numbers, may lie apart by rounding.

Does not know what is computed. A trial of a model (packed or apart, beside others or alone) that differs by more
has found a leak.
"""

from __future__ import annotations

import torch

_OF = {torch.float32: 1e-3, torch.float64: 1e-6}
_OF_16 = 0.1
"""16-bit logits of size 10 are 0.04 apart."""


def rounding_of(dtype: torch.dtype) -> float:
    """The largest difference, in nats, of log-probs computed in `dtype`; 16 bits for all that has no number of its own."""
    return _OF.get(dtype, _OF_16)
