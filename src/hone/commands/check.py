"""hone check: everything of a run but its weights: samples, data, chat format and plan; non-zero where it would go wrong.

Of settings that use a model, for chat, api or export: its files, chat format, adapters, engine.

Holds no logic: it reads the settings, and only then imports what looks at them, so that a mistake is told at once.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from hone.config import Run, load_for_use
from hone.config.environment import read_environment
from hone.errors import HoneError
from hone.table import Table

if TYPE_CHECKING:
    from hone.inference.preview import Preview
    from hone.training.planning.review import Review

_SAMPLES = 3
_LATER = Table(
    "step",
    {
        "count_world": "hone.training.processes.launch:count_world",
        "review": "hone.training.planning.review:review",
        "preview": "hone.inference.preview:preview",
        "export": "hone.export.preview:looks",
        "data": "hone.data.build:find_specs",
        "objective": "hone.objectives.build:build_objective",
    },
)


def main(arguments: list[str]) -> int:
    """Print the review; returns 2 where a fault was found or an error ends the check, of which `--json` makes an object too.

    `--for NAME` plans for other hardware than this machine's: a GPU, or `8xNAME`.
    Its `errors` are the mistakes that ended the check, each with place, key and message; without any, the review stands beside.
    """
    machine = "--json" in arguments
    words, named = _without_for([argument for argument in arguments if argument != "--json"])
    if not machine:
        found = _look(words, named, colour=sys.stdout.isatty())
        print("\n".join(found.lines()))
        return HoneError.exit_code if found.faults else 0
    try:
        found = _look(words, named, colour=False)
    except HoneError as error:
        _print({"errors": error.to_list()})
        raise
    _print({"errors": [], **found.to_dict()})
    return HoneError.exit_code if found.faults else 0


def _without_for(words: list[str]) -> tuple[list[str], str]:
    """The words without `--for NAME`, and the name; "" where it is not there."""
    if "--for" not in words:
        return words, ""
    at = words.index("--for")
    if not "".join(words[at + 1 : at + 2]).strip():
        raise HoneError("--for: write the name of a GPU behind it, as in --for h100 or --for 8xh100")
    return words[:at] + words[at + 2 :], words[at + 1]


def _look(words: list[str], named: str, *, colour: bool) -> Review | Preview:
    run, verb = load_for_use(words)
    if verb != "train":
        if named:
            raise HoneError(f"--for {named}: these settings train nothing, so there is no plan of a step; leave it out")
        return _preview(run, verb)
    environment, _ = read_environment()
    world = 1 if named else _LATER.load("count_world")(environment, use_cpu=run.train.use_cpu)
    return _LATER.load("review")(run, world=world, count=_SAMPLES, colour=colour, named=named)


def _preview(run: Run, verb: str) -> Preview:
    """Of settings that use a model."""
    beside = run.api.adapters.values()
    found = _LATER.load("preview")(run.model, run.chat, run.adapter, run.serve, beside=beside, use=verb)
    if verb == "export":
        names = [*run.data.eval_dataset, *filter(None, [run.export.export_quantization_dataset])]
        wanted = _LATER.load("objective")(run.objective).sample
        for look in (*_LATER.load("export")(run.model, run.export), partial(_LATER.load("data"), run.data, names, wanted)):
            found.tried(look)
    return found


def _print(found: dict[str, Any]) -> None:
    print(json.dumps(found, indent=1, ensure_ascii=False))
