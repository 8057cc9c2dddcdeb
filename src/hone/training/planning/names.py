"""Names: what the settings call by name is looked up, before data are read or weights loaded, and all that is not there is told.

Does not know what any of it is used for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from hone.adapters.targets import require_modules
from hone.config.adapter import Adapted, Lora
from hone.config.knobs import SCORES_TEXTS
from hone.config.run import Run
from hone.data.build import find_specs
from hone.errors import at_once
from hone.inference.names import looks
from hone.models.load import load_config
from hone.models.shape import meta_model
from hone.objectives.build import build_objective


def require_names(run: Run) -> None:
    """Raise an error of every name that nothing has: of template, tool format, data sets, model, adapters and its modules."""
    at_once(_looks(run))


def _looks(run: Run) -> Iterator[Callable[[], object]]:
    yield from looks(run.chat, run.adapter)
    if names := dict.fromkeys((*run.data.dataset, *run.data.eval_dataset)):
        yield partial(find_specs, run.data, tuple(names), build_objective(run.objective).sample)
    yield partial(_require_modules, run)


def _require_modules(run: Run) -> None:
    """Those that an adapter is to be put on; "all" is looked for where it is put."""
    scores = run.objective.kind in SCORES_TEXTS
    load_config(run.model, scores=scores)
    adapter = run.adapter
    if scores or not isinstance(adapter, Adapted) or adapter.adapter_name_or_path:
        return
    key, names = ("lora_target", adapter.lora_target) if isinstance(adapter, Lora) else ("oft_target", adapter.oft_target)
    if "all" not in names:
        require_modules(meta_model(run.model), names, key)
