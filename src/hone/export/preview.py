"""Preview: what an export needs beside its model, looked up before a weight is read: a place, a family, packages.

Does not know the base's files nor the adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from hone.config.export import ExportConfig
from hone.config.model import ModelConfig
from hone.export.folder import check_place
from hone.export.gguf.families import family_of
from hone.export.gguf.package import load_gguf
from hone.export.quantized.job import check_family, require_form
from hone.models.load import load_config


def looks(model: ModelConfig, settings: ExportConfig) -> Iterator[Callable[[], object]]:
    """Each raises what is wrong with a part of it."""
    yield partial(check_place, Path(settings.export_dir or "").expanduser(), [])
    if settings.export_format == "gguf":
        yield load_gguf
        if not settings.export_adapter_only:
            yield lambda: family_of(load_config(model).to_dict())
    elif settings.export_quantization_bit is not None:
        yield partial(check_family, model)
        yield partial(require_form, settings)
