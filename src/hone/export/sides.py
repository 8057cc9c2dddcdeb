"""The two sides of `hone parity`, out of their places: what was trained, and what was exported of it.

Does not know the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hone.adapters.folder import CONFIG, read_folder
from hone.chat.codec import Codec
from hone.chat.encoded import Encoded
from hone.config.adapter import Adapter
from hone.config.model import ModelConfig
from hone.errors import ExportError, ModelError
from hone.export.gguf.kinds import KINDS
from hone.export.ingredients import find_device, gather
from hone.export.parity import Parity
from hone.export.quantized.forms import few_bits
from hone.export.source import main_dtype, read_checkpoint, read_json
from hone.export.trial import measure_parity
from hone.models.llamacpp.library import LlamaCpp


def settings_of(place: str) -> list[str]:
    """The settings that name the trained side: a model, or an adapter with the base that it names. Raises: ModelError."""
    if not (Path(place) / CONFIG).is_file():
        return [f"model_name_or_path={place}"]
    return [f"model_name_or_path={read_folder(Path(place)).base_name}", f"adapter_name_or_path={place}"]


def compare_sides(
    model: ModelConfig, adapter: Adapter, place: str, codec: Codec, *, length: int | None, rows: Sequence[Encoded]
) -> Parity:
    """The parity of what lies at `place` with base + adapter. Raises: ModelError, ExportError where it cannot be measured."""
    exported = Path(place).expanduser()
    if not exported.exists():
        raise ModelError(f"there is no {place}: name the exported folder, or a .gguf file")
    parts = gather(model, adapter)
    dtype = _format_of(exported)
    told = {"dtype": dtype, "device": find_device("cpu"), "length": length, "head": parts.head, "rows": rows}
    found, why = measure_parity(parts.model, adapter, exported, codec, **told)
    if found is None:
        raise ExportError(f"parity cannot be measured here: {why}")
    return found


def _format_of(exported: Path) -> str:
    """The number format whose tolerance holds: safetensors' name, or a word of gguf_type."""
    if exported.suffix != ".gguf":
        if said := few_bits(read_json(exported / "config.json")):
            return said
        return main_dtype(read_checkpoint(exported))
    with LlamaCpp("parity of a GGUF file") as library:
        said = library.load(exported, vocabulary_only=True).about["general.file_type"]
    known = {str(kind.number): word for word, kind in KINDS.items()}
    if said not in known:
        raise ExportError(f"{exported} is in a number format (llama.cpp's file type {said}) that has no tolerance here")
    return known[said]
