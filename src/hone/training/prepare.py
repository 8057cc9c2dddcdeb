"""Prepare: from a run's settings to a session: rooms put together in the order data flows, up to the first step.

Does not know any single objective, adapter or file format.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from hone import log
from hone.config.environment import read_environment
from hone.config.run import Run
from hone.data.order import Steps
from hone.errors import RunError
from hone.kernels.machine import device_of, machine_of
from hone.objectives.onpolicy import OnPolicy
from hone.training.checkpoints.checkpoint import make_output, write_whole, writing
from hone.training.checkpoints.hold import hold
from hone.training.checkpoints.randomness import be_deterministic, seed_all
from hone.training.checkpoints.remote import Carrier, Remote, brought_here, everywhere
from hone.training.checkpoints.resume import (
    NOTHING,
    Start,
    changes,
    choose_start,
    require_free_output,
    require_same_run,
    told_finished,
)
from hone.training.device import Device
from hone.training.engines.base import Hardware
from hone.training.heads import fit_heads
from hone.training.makers import build_module, make_feed, make_keeper, make_work
from hone.training.planning.choose import choose
from hone.training.planning.draft import Material, draft_plan, gather_material, lay_steps, never_learns
from hone.training.planning.means import require_means
from hone.training.planning.names import require_names
from hone.training.planning.plan import Plan, precision_of
from hone.training.planning.precision import settled
from hone.training.portions import divided, read_note
from hone.training.precompute import rows_taken, with_reference
from hone.training.processes.elastic import shared_out
from hone.training.processes.meeting import Meeting
from hone.training.processes.preflight import HINT, digest, join, prove_sum, same_data
from hone.training.prompts import ready_to_draw
from hone.training.reference import build_reference, is_precomputed
from hone.training.session import Session
from hone.training.trackers import tracker_folder


def prepare(run: Run, *, settings: str) -> Session | str:
    """Everything up to the first step; what to say instead, where nothing of the run is left to do.

    settings: the run's resolved settings, to be kept beside every checkpoint.
    """
    run, remote = brought_here(settled(run, machine_of(device_of(use_cpu=run.train.use_cpu))))
    meeting = join(run, settings)
    device, start = _come_together(run, meeting, remote)
    _settle_numbers(run, device)
    require_names(run)
    require_means(run, device.device)
    material = gather_material(run)
    same_data(meeting, digest(material.tokens))
    run = shared_out(run, read_environment()[0], fixed=material.objective.mixes_rows)
    _require_something_to_learn(run, material)
    run, steps, plan = _decide(run, material, device, start)
    if start.source:
        require_same_run(start.source, plan.fingerprint)
        if finished := device.gather(told_finished(run, plan, start, settings))[0]:
            device.close()
            return finished
        for line in changes(start.source, settings):
            log.info(f"note: {line}")
    announce(material, plan, trains=run.train.do_train)
    if device.is_main and run.train.do_train:
        with writing(Path(plan.output_dir)):
            plan.save(Path(plan.output_dir))
            write_whole(Path(plan.output_dir) / "run.yaml", settings)
    return _assemble(run, plan, device, material, steps, start, remote, meeting, settings)


def _come_together(run: Run, meeting: Meeting, remote: Remote | None) -> tuple[Device, Start]:
    """All processes joined and proven by one sum, and where the run starts from, looked up by the first of them."""
    choice = _look_at_output(run, remote) if log.rank() == 0 else NOTHING  # before any process waits in a collective
    meeting.wait("the look at output_dir")
    with meeting.within("the first sum over all processes", HINT):
        device = open_device(run)
        prove_sum(device)
    start = device.gather(choice)[0]
    if remote is not None and start.source is not None:
        everywhere(remote, start.source)
        device.gather(None)  # the processes of a machine wait for the one that fetches
    return device, start


def _require_something_to_learn(run: Run, material: Material) -> None:
    if material.objective.has_labels and not material.tokens.trained.any():
        raise RunError("nothing would be trained: no token of the data is learned; `hone check` shows the samples")
    if run.train.do_train and (problem := material.objective.problem_of(material.tokens)):
        raise RunError(problem)


def _decide(run: Run, material: Material, device: Device, start: Start) -> tuple[Run, Steps, Plan]:
    """What was left open, settled alike on every process; the order of the rows; the plan."""
    choice = choose(run, material.objective, material.tokens, device=device.device, world=device.data_world)
    choice = device.gather(choice)[0]  # each process finds other memory free
    run = divided(choice.settle(run), device.gather(read_note(Path(run.train.output_dir)))[0])
    steps = lay_steps(run, material, device.data_world)
    plan = draft_plan(run, material, steps, choice, device=device.device, world=device.data_world)
    if start.source is None and (problem := never_learns(run, plan)):
        raise RunError(problem)
    return run, steps, plan


def _assemble(
    run: Run,
    plan: Plan,
    device: Device,
    material: Material,
    steps: Steps,
    start: Start,
    remote: Remote | None,
    meeting: Meeting,
    settings: str,
) -> Session:
    """Model, optimizer, batches and keeper, as planned."""
    sampling = None
    if isinstance(material.objective, OnPolicy):
        sampling = ready_to_draw(run, material.objective, material.codec, material.pad_id)
    module = build_module(run, device, activations=plan.activations, head=material.objective.head)
    fit_heads(run, module, material.objective)
    work = make_work(run, plan, device, material, module)
    if is_precomputed(run):
        rows = rows_taken(steps, plan.num_steps, len(material.tokens)) if run.train.do_train else np.zeros(0, np.int64)
        build = partial(build_reference, run, device, work.policy, module)
        material = with_reference(run, material, rows, plan.fingerprint, work.policy, device, build)
    feed = make_feed(run, material, steps, work, module, sampling)
    keeper = make_keeper(run, plan, material, module, work, feed, settings=settings, start=start)
    anew = start.source is None
    carrier = Carrier(remote if device.is_main else None, limit=run.train.save_total_limit, anew=anew)
    return Session(run, plan, device, material, steps, work, feed, keeper, start, carrier, meeting)


def _settle_numbers(run: Run, device: Device) -> None:
    """Seeds, and how products are taken."""
    seed_all(run.train.seed)
    if run.train.full_determinism:
        be_deterministic()
    if run.train.tf32 is not None:
        device.use_tf32(run.train.tf32)


def _look_at_output(run: Run, remote: Remote | None) -> Start:
    """Where the run starts from; one that only evaluates takes the model as it is and leaves output_dir's run alone."""
    if run.train.do_train:
        require_free_output(run)
    make_output(Path(run.train.output_dir))
    hold(Path(run.train.output_dir))
    if remote is not None:
        asked = run.train.resume_from_checkpoint
        anew = asked is False or (run.train.overwrite_output_dir and asked is None) or not run.train.do_train
        remote.begin(anew=anew, named=asked if isinstance(asked, str) else "")
    return choose_start(run.train) if run.train.do_train else NOTHING


def open_device(run: Run) -> Device:
    """The processes and trackers of a run."""
    hardware = Hardware(precision_of(run.train), run.train.use_cpu, run.parallel, run.track.report_to, tracker_folder(run))
    return Device(hardware)


def announce(material: Material, plan: Plan, *, trains: bool) -> None:
    """Print the data report and the plan."""
    for line in (*material.tokens.report.lines(), "", *plan.lines(trains=trains), ""):
        log.info(line)
