"""How many prepared products (oneDNN primitives) a process keeps on a CPU: few, so that memory does not grow with new lengths.

Does not know whose products they are; what the user has set stays as it is.
"""

from __future__ import annotations

import os

import torch

KEPT = 64
"""Entries of each cache: more than the different products of one batch, which all layers share. See bench/cpu_cache.py."""

CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""oneDNN's own cache and that of ideep, torch's layer over it, 1,024 entries each if unset; either one alone keeps the memory."""


def bound_prepared(device: torch.device) -> None:
    """Set both capacities. Each is read at the first product of the process and never again, so this comes before any model."""
    if device.type == "cpu":
        for name in CAPACITIES:
            os.environ.setdefault(name, str(KEPT))
