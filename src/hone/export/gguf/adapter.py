"""A LoRA adapter as llama.cpp puts it beside a model: both factors of each weight, under the weight's name and turned as it is.

Does not know the base's numbers.
"""

from __future__ import annotations

from dataclasses import replace

from hone.errors import ExportError
from hone.export.gguf.families import Config, Family
from hone.export.gguf.package import load_gguf
from hone.export.gguf.tensors import Made, architecture_number, change_of
from hone.export.lora import Adapter, Addition
from hone.export.recipe import Step
from hone.export.source import Stored
from hone.export.write import Slot


def plan_adapter(adapter: Adapter, family: Family, config: Config) -> tuple[list[Made], float]:
    """The tensors, and alpha. llama.cpp scales a product by alpha / rank: each B is scaled so that this is its own scale.

    Raises: ExportError where the adapter holds whole tensors, or changes what llama.cpp has no adapter for.
    """
    if adapter.replacements:
        raise ExportError(
            f"{adapter.folder} holds whole tensors ({', '.join(list(adapter.replacements)[:3])}), which llama.cpp puts beside "
            "no model: leave export_adapter_only out, so that they are merged"
        )
    names = load_gguf().get_tensor_name_map(architecture_number(family), config["num_hidden_layers"])
    first = next(iter(adapter.additions.values()))
    alpha = first.scale * first.a.shape[0]
    made: list[Made] = []
    for name, addition in adapter.additions.items():
        place = names.get_name(name, try_suffixes=(".weight",))
        if place is None or ".embed_tokens." in name or name.endswith("kv_b_proj.weight"):
            raise ExportError(f"llama.cpp puts no adapter beside {name}: leave export_adapter_only out, so that it is merged")
        made += _factors(place, name, addition, alpha, family, config)
    return sorted(made, key=lambda one: one.name), alpha


def _factors(place: str, name: str, addition: Addition, alpha: float, family: Family, config: Config) -> list[Made]:
    """A as it is; of B the rows are the weight's own, and turned as they are."""
    turned, times = change_of(name, family, config), addition.scale * addition.a.shape[0] / alpha
    down = Made(f"{place}.lora_a", addition.a.shape, (_step(addition.a),))
    up = Made(f"{place}.lora_b", addition.b.shape, (_step(addition.b),))
    return [down, replace(up, change=lambda b_RD: (turned(b_RD) if turned else b_RD) * times)]


def _step(stored: Stored) -> Step:
    return Step(Slot(stored.name, stored.shape, "F32"), stored)
