"""The one door to the package `gguf`: GGUF's names and numbers, and its plain number formats in numpy.

Does not know models.
"""

from __future__ import annotations

from types import ModuleType

from hone.errors import MissingExtra


def load_gguf() -> ModuleType:
    """The package. Raises: MissingExtra."""
    try:
        import gguf
    except ModuleNotFoundError as fault:
        raise MissingExtra("gguf", "gguf", "export_format: gguf") from fault
    return gguf
