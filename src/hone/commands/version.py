"""hone version: prints the version, and imports nothing but the number.

Does not know the versions of other packages: `hone env` lists them.
"""

from __future__ import annotations

import hone


def main(arguments: list[str]) -> int:
    """Print one line."""
    print(f"hone {hone.__version__}")
    return 0
