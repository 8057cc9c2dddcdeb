"""hone convert: prints a LLaMA-Factory YAML as hone's typed tree, or every reason why it cannot run.

Does not judge the settings: reading them does.
"""

from __future__ import annotations

from hone import log
from hone.config import read, to_yaml
from hone.config.knobs import knobs
from hone.errors import HoneError

_ALL = "--all"


def main(arguments: list[str]) -> int:
    """Print what is set, section by section, or every setting (--all). Raises: ConfigError with every mistake."""
    words = [word for word in arguments if word != _ALL]
    if not words:
        raise HoneError("name the file: hone convert old.yaml > new.yaml")
    loaded = read(words, "convert")
    secrets = [knob.key for knob in knobs().values() if knob.secret and knob.path in loaded.written]
    for note in (*loaded.notes, *(f"{key} is a secret and left out" for key in secrets)):
        log.info(f"note: {note}")
    print(to_yaml(loaded.run, only=None if _ALL in arguments else loaded.written), end="")
    return 0
