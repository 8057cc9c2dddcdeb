"""hone check: everything of a run but its weights: samples, data, chat format and plan; non-zero where it would go wrong.

Holds no logic: it reads the settings, and only then imports what looks at them, so that a mistake is told at once.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from hone.config import load
from hone.config.environment import read_environment
from hone.errors import HoneError
from hone.table import Table

if TYPE_CHECKING:
    from hone.training.planning.review import Review

_SAMPLES = 3
_LATER = Table(
    "step", {"count_world": "hone.training.processes.launch:count_world", "review": "hone.training.planning.review:review"}
)


def main(arguments: list[str]) -> int:
    """Print the review; returns 2 where a fault was found or an error ends the check, of which `--json` makes an object too.

    Its `errors` are the mistakes that ended the check, each with place, key and message; without any, the review stands beside.
    """
    machine = "--json" in arguments
    words = [argument for argument in arguments if argument != "--json"]
    if not machine:
        found = _look(words, colour=sys.stdout.isatty())
        print("\n".join(found.lines()))
        return HoneError.exit_code if found.faults else 0
    try:
        found = _look(words, colour=False)
    except HoneError as error:
        _print({"errors": error.to_list()})
        raise
    _print({"errors": [], **found.to_dict()})
    return HoneError.exit_code if found.faults else 0


def _look(words: list[str], *, colour: bool) -> Review:
    run = load(words, "train")
    environment, _ = read_environment()
    world = _LATER.load("count_world")(environment, use_cpu=run.train.use_cpu)
    return _LATER.load("review")(run, world=world, count=_SAMPLES, colour=colour)


def _print(found: dict[str, Any]) -> None:
    print(json.dumps(found, indent=1, ensure_ascii=False))
