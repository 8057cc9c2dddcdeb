"""Settings of what is trained on top of the base model: everything, some layers, or a small adapter.

Does not know the model's architecture.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob


class Full(Section):
    """Train every weight."""

    kind: Literal["full"] = "full"


class Freeze(Section):
    """Train some layers and leave the others as they are."""

    kind: Literal["freeze"] = "freeze"
    freeze_trainable_layers: int = knob(2, "Number of layers trained: the last ones, or the first where negative.")
    freeze_trainable_modules: tuple[str, ...] = knob(("all",), "Modules of those layers that are trained.")
    freeze_extra_modules: tuple[str, ...] = knob((), "Modules outside the layers that are trained too.")


class Lora(Section):
    """Train a low-rank addition to linear layers (Hu et al. 2021)."""

    kind: Literal["lora"] = "lora"
    adapter_name_or_path: tuple[str, ...] = knob((), "Adapters to load; while training, the last one is continued.")
    adapter_folder: str | None = knob(None, "Folder inside the adapter's repository.")
    create_new_adapter: bool = knob(False, "Merge the adapters loaded and train a new one.")
    lora_rank: int = knob(8, "Rank of the addition.", gt=0)
    lora_alpha: int | None = knob(None, "Scale of the addition; twice the rank where left out.")
    lora_dropout: float = knob(0.0, "Dropout before the addition.", ge=0, lt=1)
    lora_target: tuple[str, ...] = knob(("all",), "Names of the linear layers, or all.")
    additional_target: tuple[str, ...] = knob((), "Modules trained whole and saved with the adapter.")
    use_rslora: bool = knob(False, "Scale by alpha / sqrt(rank) (Kalajdzievski 2023).")
    use_dora: bool = knob(False, "Train magnitude and direction apart (Liu et al. 2024).")
    pissa_init: bool = knob(False, "Start from the weights' principal parts (Meng et al. 2024).")
    pissa_iter: int = knob(16, "Iterations of the fast SVD; -1 for the exact one.")


Adapter = Full | Freeze | Lora
