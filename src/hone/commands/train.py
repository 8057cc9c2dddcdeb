"""hone train: settings to a trained model, on one process or, through torchrun, on several.

Holds no logic: it puts rooms together.
"""

from __future__ import annotations

from hone import log
from hone.config import load, to_yaml
from hone.config.environment import read_environment
from hone.config.run import Run
from hone.errors import HoneError
from hone.training.launch import launch, leave, wants_launch
from hone.training.session import Session, carry_out, evaluate_only, prepare
from hone.training.voice import has_the_word


def main(arguments: list[str]) -> int:
    """As `_train`; of processes that torchrun started, one tells an error that all of them meet."""
    try:
        return _train(arguments)
    except HoneError as error:
        if not has_the_word(str(error)):
            return error.exit_code
        raise


def _train(arguments: list[str]) -> int:
    """Train; returns 0, the code of the process that failed, or 128 + the signal that stopped a run, its state saved."""
    run = load(arguments, "train")
    environment, _ = read_environment()
    if wants_launch(environment, use_cpu=run.train.use_cpu):
        return launch(environment, ["train", *arguments])
    session = prepare(run, settings=to_yaml(run))
    code = _carried_out(run, session)
    return leave(code) if environment.launched else code  # while the session is still whole


def _carried_out(run: Run, session: Session | str) -> int:
    if isinstance(session, str):
        log.info(session)
        return 0
    if not run.train.do_train:
        metrics = evaluate_only(session)
        log.info("\n".join(f"{name:<27} {value:.4f}" for name, value in metrics.items()))
        return 0
    outcome = carry_out(session)
    if outcome.signal:
        how = "with overwrite_output_dir=false " if run.train.overwrite_output_dir else ""
        log.info(f"stopped; its state is in {session.keeper.last}. The same command {how}continues it")
        return 128 + outcome.signal
    log.info("\n".join(f"{name:<27} {value:.4f}" for name, value in outcome.metrics.items()))
    log.info(f"the model is in {session.plan.output_dir}")
    return 0
