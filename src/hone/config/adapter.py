"""Settings of what is trained on top of the base model: everything, some layers, or a small adapter.

Does not know the model's architecture.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob


class Learning(Section):
    """Which parts of a model learn that takes pictures or sounds beside text."""

    freeze_vision_tower: bool = knob(
        True,
        "Leaves the part that looks or listens as it is, as most data of a few thousand pictures need it. Turn it off to teach "
        "the model to see things that it does not know.",
        level="advanced",
    )
    freeze_multi_modal_projector: bool = knob(
        True,
        "Leaves the projector as it is, which turns what is seen into what the language model reads. Turn it off to train a new "
        "one.",
        level="advanced",
    )
    freeze_language_model: bool = knob(
        False,
        "Leaves the language model as it is and trains the other parts alone, of a model that takes pictures or sounds.",
        level="advanced",
    )


class Full(Learning):
    """Train every weight."""

    kind: Literal["full"] = "full"


class Freeze(Learning):
    """Train some layers and leave the others as they are."""

    kind: Literal["freeze"] = "freeze"
    freeze_trainable_layers: int = knob(
        2,
        "Number of layers that are trained: the last ones, or the first ones where negative. More layers learn more "
        "and take more memory.",
        unit="layers",
    )
    freeze_trainable_modules: tuple[str, ...] = knob(
        ("all",), "Modules of those layers that are trained, by name, or all.", level="advanced", example="mlp,self_attn"
    )
    freeze_extra_modules: tuple[str, ...] = knob(
        (),
        "Modules outside the layers that are trained too, such as the embeddings.",
        level="advanced",
        example="embed_tokens,lm_head",
    )


class Adapted(Learning):
    """What all share that train a small adapter beside the frozen model."""

    adapter_name_or_path: tuple[str, ...] = knob(
        (),
        "Adapters to load on top of the base model, folders or hub ids. In training the last one is continued; in "
        "chat and export all are applied in this order.",
        example="saves/llama3-8b/lora/sft",
    )
    adapter_folder: str | None = knob(
        None, "Folder inside the adapter's repository, where it is not at the top.", level="advanced", example="adapter"
    )
    create_new_adapter: bool = knob(
        False,
        "Merges the adapters of adapter_name_or_path into the base and trains a new one, instead of continuing the last.",
        level="advanced",
    )
    additional_target: tuple[str, ...] = knob(
        (),
        "Modules that are trained whole and saved with the adapter. Name the embeddings and the head here after adding tokens.",
        level="advanced",
        example="embed_tokens,lm_head",
    )


class Lora(Adapted):
    """Train a low-rank addition to linear layers (Hu et al. 2021)."""

    kind: Literal["lora"] = "lora"
    lora_rank: int = knob(
        8,
        "Rank of the addition: how much it can learn. 8 to 16 suit a style or format, 64 and more suit new knowledge;"
        " memory grows with it.",
        gt=0,
    )
    lora_alpha: int | None = knob(
        None,
        "Scale of the addition, divided by the rank. Left out it is twice the rank, which seldom needs a change.",
        gt=0,
        example="16",
    )
    lora_dropout: float = knob(
        0.0,
        "Share of inputs dropped before the addition, against over-fitting of small sets. Above 0 it slows training.",
        ge=0,
        lt=1,
        example="0.05",
    )
    lora_target: tuple[str, ...] = knob(
        ("all",),
        "Names of the linear layers that get an addition, or all for every one in the layers. All is best for "
        "quality; q_proj,v_proj is smaller.",
        example="q_proj,v_proj",
    )
    use_rslora: bool = knob(
        False,
        "Scales by alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023). For ranks of 64 and more.",
        level="advanced",
    )
    use_dora: bool = knob(
        False,
        "Trains size and direction of each weight apart (Liu et al. 2024). Often a little better at small ranks, and slower.",
        level="advanced",
    )
    pissa_init: bool = knob(
        False,
        "Starts the addition from the principal parts of the weights (Meng et al. 2024), which learns faster at "
        "first. Not for a quantized base.",
        level="advanced",
    )
    pissa_iter: int = knob(
        16,
        "Iterations of the fast decomposition for pissa_init; -1 takes the exact one, which is slow for large models.",
        ge=-1,
        level="advanced",
    )


class Oft(Adapted):
    """Train a rotation of what linear layers read (Qiu et al. 2023)."""

    kind: Literal["oft"] = "oft"
    oft_block_size: int = knob(
        32,
        "Inputs of a layer that are turned together: how much the rotation can learn, and memory, grow with it. It must divide "
        "the number of inputs of every layer in oft_target. 0 where oft_rank is written.",
        ge=0,
    )
    oft_rank: int = knob(
        0,
        "Blocks that the inputs of every layer are cut into, in the place of oft_block_size: more blocks learn less.",
        unit="blocks",
        level="advanced",
        ge=0,
        example="8",
    )
    oft_target: tuple[str, ...] = knob(
        ("all",),
        "Names of the linear layers whose inputs are turned, or all for every one in the layers.",
        example="q_proj,v_proj",
    )
    module_dropout: float = knob(
        0.0,
        "Share of the blocks that are left as they are in a pass, against over-fitting of small sets.",
        level="advanced",
        ge=0,
        lt=1,
        example="0.05",
    )


Adapter = Full | Freeze | Lora | Oft
