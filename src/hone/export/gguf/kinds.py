"""The words of gguf_type: which number format each is, who writes it, and whether it wants an importance matrix.

Does not know any model, nor how near to the trained model each is: `parity.TOLERANCES` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from hone.config.export import GGUF_TYPES


@dataclass(frozen=True)
class Kind:
    """One word. number: llama.cpp's llama_ftype. plain: gguf's name of a format that we write ourselves, else ""."""

    word: str
    number: int
    plain: str = ""


_PLAIN = (Kind("f32", 0, "F32"), Kind("f16", 1, "F16"), Kind("bf16", 32, "BF16"), Kind("q8_0", 7, "Q8_0"))
_NUMBERS = {
    "q6_k": 18,
    "q5_k_m": 17,
    "q5_k_s": 16,
    "q4_k_m": 15,
    "q4_k_s": 14,
    "q3_k_m": 12,
    "q2_k": 10,
    "iq4_xs": 30,
    "iq4_nl": 25,
    "iq3_m": 27,
    "iq3_xxs": 23,
    "iq2_m": 29,
    "iq2_xs": 20,
}
KINDS = {kind.word: kind for kind in (*_PLAIN, *(Kind(word, number) for word, number in _NUMBERS.items()))}
assert tuple(KINDS) == GGUF_TYPES
