"""hone convert: prints a LLaMA-Factory YAML as hone's typed tree, or every reason why it cannot run.

Does not judge the settings: loading them does.
"""

from __future__ import annotations

from hone.config import load, to_yaml
from hone.errors import HoneError


def main(arguments: list[str]) -> int:
    """Print the tree; a ConfigError with every mistake is the other outcome."""
    if not arguments:
        raise HoneError("name the file: hone convert old.yaml > new.yaml")
    print(to_yaml(load(arguments, "convert")), end="")
    return 0
