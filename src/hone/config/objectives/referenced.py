"""Referenced: the settings of a model that the one which learns is held against.

Does not know what the two are compared for.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob


class Referenced(Section):
    """What all share that may be held against a reference."""

    ref_model: str | None = knob(
        None,
        "Folder or hub id of the frozen model that the one which learns is held against. Left out, it is the base without the "
        "adapter, which takes no memory, or a copy of the base where every weight learns. Its tokenizer must be the same.",
        level="advanced",
        example="saves/llama3-8b/sft-merged",
    )
    ref_model_adapters: tuple[str, ...] = knob(
        (), "Adapters on top of ref_model, applied in this order.", level="advanced", example="saves/llama3-8b/lora/sft"
    )
    ref_model_quantization_bit: Literal[4, 8] | None = knob(
        None, "Holds the weights of ref_model in this many bits, where it would not fit.", unit="bits", level="advanced"
    )
