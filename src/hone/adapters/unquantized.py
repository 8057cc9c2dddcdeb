"""Unquantized: peft without bitsandbytes, where nothing is held in few bits.

Does not know adapters. Wherever bitsandbytes is installed peft 0.21 imports it, and with it torch's compiler: 1.1 of the 7 s of
a processor that a run takes to its first step.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PACKAGE = "bitsandbytes"


@contextmanager
def _hidden() -> Iterator[None]:
    modules: dict[str, Any] = sys.modules
    if _PACKAGE in modules:  # a base that it holds in few bits has imported it
        yield
        return
    modules[_PACKAGE] = None  # found nowhere, and an ImportError to import
    try:
        yield
    finally:
        del modules[_PACKAGE]


with _hidden():
    from peft.import_utils import is_bnb_4bit_available, is_bnb_available


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """While it is held peft finds no bitsandbytes, unless it is imported already."""
    try:
        with _hidden():
            yield
    finally:
        for remembered in (is_bnb_available, is_bnb_4bit_available):
            remembered.cache_clear()
