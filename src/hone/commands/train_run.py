"""The run of `hone train`, from its settings to its model: launched, prepared, carried out, and what it says at its end.

Holds no logic: it puts rooms together.
"""

from __future__ import annotations

from hone import log
from hone.config import to_yaml
from hone.config.environment import Environment
from hone.config.run import Run
from hone.training.hold import let_go
from hone.training.launch import launch, leave, wants_launch
from hone.training.session import Session, carry_out, prepare, use_only


def run_training(run: Run, environment: Environment, arguments: list[str]) -> int:
    """Train, here or in processes that are started with `arguments`; the code is that of `hone train`."""
    if wants_launch(environment, use_cpu=run.train.use_cpu):
        return launch(environment, ["train", *arguments], join_timeout=run.parallel.join_timeout)
    try:
        session = prepare(run, settings=to_yaml(run))
        code = _carried_out(run, session)
        return leave(code) if environment.launched else code  # while the session is still whole
    finally:
        let_go()


def _carried_out(run: Run, session: Session | str) -> int:
    if isinstance(session, str):
        log.info(session)
        return 0
    if not run.train.do_train:
        metrics = use_only(session)
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
