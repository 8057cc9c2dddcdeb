"""hone train: settings to a trained model, on one process or, through torchrun, on several.

Holds no logic: it reads the settings, and only then imports what trains, so that a mistake in them is told at once.
"""

from __future__ import annotations

from functools import partial

from hone.config import load
from hone.config.environment import Environment, become_task
from hone.config.run import Run
from hone.errors import HoneError
from hone.table import Table
from hone.training.processes.signals import end_with_parent, ending_early

_LATER = Table(
    "step", {"run": "hone.commands.train_run:run_training", "has_the_word": "hone.training.processes.voice:has_the_word"}
)


def main(arguments: list[str]) -> int:
    """0, the code of the process that failed, or 128 + the signal that stopped a run, its state saved.

    Of processes that torchrun started, one tells an error that all of them meet.
    """
    environment = become_task()
    if environment.launched:
        end_with_parent()
    try:
        run = load(arguments, "train")
        with ending_early(partial(_code_of, run, environment)):
            return _LATER.load("run")(run, environment, arguments)
    except HoneError as error:
        if environment.launched and not _LATER.load("has_the_word")(error):
            return error.exit_code
        raise


def _code_of(run: Run, environment: Environment, number: int) -> int:
    """With what a process ends that a signal stops before its first step: torchrun must not start it again."""
    asked = run.train.stopped_exit_code
    return 0 if environment.restarts_left else 128 + number if asked is None else asked
