"""Memory that a step frees stays with a process on a CPU: the next takes the same again, and no page of it is cleared anew.

Does not know what is computed; allocators other than glibc's, and what the user has set of glibc's, stay as they are.
"""

from __future__ import annotations

import ctypes
import os
import sys

TOLD = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
"""What a user sets glibc's allocator by."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**25
"""Most that glibc takes from its heap; what is larger is given back as soon as it is freed, and costs little beside its use."""


def keep_freed() -> bool:
    """Tell glibc to keep what is freed; whether it was told. See bench/freed_memory.py.

    Unset it gives the heap's end back whenever more than some MiB of it are free, which after a backward pass is most of it.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in TOLD):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, -1))
