"""hone check: everything of a run but its weights: samples, data, chat format and plan; non-zero where it would go wrong.

Holds no logic: it puts rooms together.
"""

from __future__ import annotations

import json
import os
import sys

from hone.config import load
from hone.training.review import review

_SAMPLES = 3


def main(arguments: list[str]) -> int:
    """Print the review (`--json`: for machines); returns 1 where a fault was found."""
    machine = "--json" in arguments
    run = load([argument for argument in arguments if argument != "--json"], "train")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    found = review(run, world=world, count=_SAMPLES, colour=sys.stdout.isatty() and not machine)
    print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) if machine else "\n".join(found.lines()))
    return 1 if found.faults else 0
