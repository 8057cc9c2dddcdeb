"""Means: whether this machine and its packages can do what the settings ask, told before data are read or weights loaded.

Does not know the data nor how anything is computed; `hone check` and `hone train` ask alike, so that both give one answer.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

from hone.config.knobs import SCORES_TEXTS
from hone.config.run import Run
from hone.errors import MissingExtra, RunError
from hone.kernels.machine import Machine, has_host_memory, machine_of
from hone.models.attention import choose_attention
from hone.models.load import load_config
from hone.models.quantize import in_float8, quantization_config
from hone.models.rope import stretch
from hone.optim.build import require_optimizer
from hone.training.device import require_trackers
from hone.training.planning.fallbacks import require_states
from hone.training.results import require_plots


def require_means(run: Run, device: torch.device) -> None:
    """Raise the error of the first thing that is asked for and is not here: a package, a kernel, a kind of hardware or model."""
    config = load_config(run.model, scores=run.objective.kind in SCORES_TEXTS)
    choose_attention(run.model, config, device)
    if run.model.rope_scaling:
        stretch(config, run.model.rope_scaling, run.data.cutoff_len)
    if run.model.quantization and not in_float8(run.model.quantization):
        quantization_config(run.model.quantization, torch.float32)
    require_optimizer(run.optimizer)
    require_trackers(run.track.report_to)
    require_states(run, machine_of(device))
    require_host_memory(run, device)
    if run.track.plot_loss:
        require_plots()
    if run.parallel.engine == "zero" and find_spec("deepspeed") is None:
        raise MissingExtra("deepspeed", "deepspeed", "deepspeed")


def require_there(run: Run, machine: Machine) -> None:
    """The same of hardware that is not here, whose packages are not known either."""
    if run.train.use_cpu:
        raise RunError(f"use_cpu: true: a plan for {machine} was asked for; leave it out")
    require_states(run, machine)
    require_host_memory(run, torch.device(machine.kind))


def require_host_memory(run: Run, device: torch.device) -> None:
    """RunError where activations or embeddings are to wait in host memory and are there already."""
    if run.train.gradient_checkpointing_kind == "offloaded" and not has_host_memory(device.type):
        raise RunError(
            "gradient_checkpointing_kind: offloaded moves activations from a GPU to host memory, and this run is on "
            f"{device.type}; write full, or selective"
        )
    if run.train.offload_embedding and not has_host_memory(device.type):
        raise RunError(f"offload_embedding: true frees memory of a GPU, and this run is on {device.type}; leave it out")
