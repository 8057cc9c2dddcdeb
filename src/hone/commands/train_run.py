"""The run of `hone train`, from its settings to its model: launched, prepared, carried out, and what it says at its end.

Holds no logic: it puts rooms together.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hone import log
from hone.config import to_yaml
from hone.config.environment import Environment
from hone.config.run import Run
from hone.training.checkpoints.hold import let_go
from hone.training.portions import read_note
from hone.training.prepare import prepare
from hone.training.processes.launch import launch, leave, wants_launch
from hone.training.processes.ray_cluster import launch_on_ray
from hone.training.processes.signals import SIGNALS
from hone.training.session import Session, carry_out, use_only


def run_training(run: Run, environment: Environment, arguments: list[str]) -> int:
    """Train, here or in processes that are started with `arguments`; the code is that of `hone train`."""
    if run.parallel.use_ray and not environment.launched:
        return launch_on_ray(run.parallel, ["train", *arguments], use_cpu=run.train.use_cpu)
    if wants_launch(environment, use_cpu=run.train.use_cpu):
        smaller = partial(read_note, Path(run.train.output_dir))
        words = ["train", *arguments]
        return _told(run, launch(environment, words, join_timeout=run.parallel.join_timeout, smaller=smaller))
    try:
        session = prepare(run, settings=to_yaml(run))
        code = _carried_out(run, session)
        if environment.restarts_left and _is_stop(code):
            leave(0)  # torchrun would start it again, and whoever asked torchrun to stop knows of it
        return leave(_told(run, code)) if environment.launched else _told(run, code)  # while the session is still whole
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
    log.info(f"the model is in {session.place}")
    return 0


def _told(run: Run, code: int) -> int:
    """The exit code, in the user's words where the run was stopped."""
    asked = run.train.stopped_exit_code
    return asked if _is_stop(code) and asked is not None else code


def _is_stop(code: int) -> bool:
    return code - 128 in SIGNALS
