"""Tensor parallel: the products inside a layer shared among processes, as the family's own plan in transformers says.

Does not know how what is left of the processes shares weights. Embeddings and the output head stay whole, as log-probs are
taken from the head's weight itself.
"""

from __future__ import annotations

import logging
from fnmatch import fnmatchcase

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from hone.errors import TrainingError
from hone.models.forward import find_causal

_STYLES = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}

# It warns of each weight that is gathered along both axes to be saved.
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


def split_products(module: nn.Module, mesh: DeviceMesh) -> None:
    """Share the layers' products along `mesh`, in place.

    Raises TrainingError where the family has no plan, one that holds more than products by rows and columns, or sizes that the
    number of processes does not divide.
    """
    causal = find_causal(module)
    name, size = type(causal).__name__, mesh.size()
    plan = {place: style for place, style in (getattr(causal, "tp_plan", None) or {}).items() if ".layers." in f".{place}."}
    if not plan:
        raise TrainingError(f"tensor_parallel_size: transformers has no plan for {name}; leave it out and write fsdp: true")
    if strange := sorted(set(plan.values()) - set(_STYLES)):
        raise TrainingError(
            f"tensor_parallel_size: the plan of {name} holds {', '.join(strange)}, which is not in this version; leave it out "
            "and write fsdp: true"
        )
    chosen = {
        path: _STYLES[style]()
        for path, inner in causal.named_modules()
        for place, style in plan.items()
        if fnmatchcase(path, place) and isinstance(inner, nn.Linear)
    }
    config = causal.config.get_text_config()
    counts = [config.num_attention_heads, config.num_key_value_heads, config.intermediate_size]
    if any(count % size for count in counts):
        heads = f"{counts[0]} heads, {counts[1]} of keys and a width of {counts[2]} inside its layers"
        raise TrainingError(f"tensor_parallel_size: {size} does not divide the {heads} of {name}; write a number that does")
    parallelize_module(causal, mesh, chosen)
