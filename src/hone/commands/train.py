"""hone train: settings to a trained model, on one process or, through torchrun, on several.

Holds no logic: it reads the settings, and only then imports what trains, so that a mistake in them is told at once.
"""

from __future__ import annotations

from hone.config import load
from hone.config.environment import become_task
from hone.errors import HoneError
from hone.table import Table

_LATER = Table("step", {"run": "hone.commands.train_run:run_training", "has_the_word": "hone.training.voice:has_the_word"})


def main(arguments: list[str]) -> int:
    """0, the code of the process that failed, or 128 + the signal that stopped a run, its state saved.

    Of processes that torchrun started, one tells an error that all of them meet.
    """
    environment = become_task()
    try:
        run = load(arguments, "train")
        return _LATER.load("run")(run, environment, arguments)
    except HoneError as error:
        if environment.launched and not _LATER.load("has_the_word")(error):
            return error.exit_code
        raise
