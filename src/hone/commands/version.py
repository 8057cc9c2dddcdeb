"""hone version: prints the version, and imports nothing but the number.

Does not know the versions of other packages: `hone env` lists them.
"""

from __future__ import annotations

import hone
from hone.errors import HoneError


def main(arguments: list[str]) -> int:
    """Print one line."""
    if arguments:
        raise HoneError(f"version takes no arguments, saw {' '.join(arguments)}")
    print(f"hone {hone.__version__}")
    return 0
