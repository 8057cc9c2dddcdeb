"""hone check: everything of a run but its weights: samples, data, chat format and plan; non-zero where it would go wrong.

Holds no logic: it puts rooms together.
"""

from __future__ import annotations

import json
import sys

from hone.config import load
from hone.config.environment import read_environment
from hone.training.launch import count_world
from hone.training.review import review

_SAMPLES = 3


def main(arguments: list[str]) -> int:
    """Print the review (`--json`: for machines); returns 1 where a fault was found."""
    machine = "--json" in arguments
    run = load([argument for argument in arguments if argument != "--json"], "train")
    environment, _ = read_environment()
    world = count_world(environment, use_cpu=run.train.use_cpu)
    found = review(run, world=world, count=_SAMPLES, colour=sys.stdout.isatty() and not machine)
    print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) if machine else "\n".join(found.lines()))
    return 1 if found.faults else 0
