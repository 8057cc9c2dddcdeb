"""DeepSpeed's ZeRO: moments, gradients and weights shared out over the processes, on the accelerator or in host memory.

Does not know what is trained, nor how its settings were written.

Straight through deepspeed.initialize: accelerate's wrapper takes the step within backward, before a norm can be looked at.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hone import log
from hone.config.zero import zero_of
from hone.errors import MissingExtra, TrainingError
from hone.models.forward import find_causal
from hone.models.tap import output_head
from hone.training.engines.base import Engine, Hardware
from hone.training.engines.moments import GROUPS, MOMENTS, state_of, weight_names
from hone.training.engines.stand_in import stand_in


class ZeroEngine(Engine):
    """Stages 1 to 3. Stage 0 shares nothing out: it is DDP."""

    def __init__(self, hardware: Hardware):
        super().__init__(hardware)
        assert hardware.parallel.deepspeed is not None, "ZeRO without DeepSpeed's settings"
        self._zero = zero_of(hardware.parallel.deepspeed)
        self._deepspeed = _import_deepspeed(on_cpu=self.device.type == "cpu")
        self._engine: Any = None
        self._names: dict[int, str] = {}
        self._groups: list[list[str]] = []

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer | None) -> tuple[nn.Module, Any]:
        """See Engine. hone's own optimizer moves this process's share, but where DeepSpeed's for the CPU is asked for."""
        assert optimizer is not None, "a module is spread over processes to be trained"
        self._names = weight_names(module)
        self._groups = [[self._names[id(weight)] for weight in group["params"]] for group in optimizer.param_groups]
        width = find_causal(module).config.get_text_config().hidden_size
        settings = self._zero.filled(precision=self.hardware.precision, width=width)
        _join_alone(self.device)
        mover = self._for_cpu(optimizer) if self._zero.forces_cpu_adam else optimizer
        engine = self._deepspeed.initialize(model=module, optimizer=mover, config=settings, dist_init_required=False)[0]
        asked, got = (self._zero.stage, self.accelerator.num_processes), (engine.zero_optimization_stage(), engine.world_size)
        if asked != got:
            raise TrainingError(f"deepspeed: asked for stage {asked[0]} on {asked[1]} processes, got {got[0]} on {got[1]}")
        self._engine = engine
        if self._zero.stage == 3:
            self._reach_head(module)
        return engine, optimizer

    def _for_cpu(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """DeepSpeed's AdamW with the groups of `optimizer`, one and the same for both, so that the schedule moves their rates."""
        log.once("zero_force_ds_cpu_optimizer: the weights are moved by DeepSpeed's AdamW for the CPU, which it builds first")
        optimizer._opt_called = True  # torch warns of a schedule whose own optimizer never steps
        try:
            return self._deepspeed.ops.adam.DeepSpeedCPUAdam(optimizer.param_groups)
        except RuntimeError as problem:
            raise TrainingError(
                f"zero_force_ds_cpu_optimizer: DeepSpeed's AdamW for the CPU could not be built ({problem}); it needs g++ and "
                "ninja. Write false: torch's own does the same"
            ) from problem

    def _reach_head(self, module: nn.Module) -> None:
        """Let the head's weights be there when the model goes backward: its logits are formed again there, outside the head."""
        causal = find_causal(module)
        head = output_head(causal)
        for weight in head.parameters() if head is not None else ():
            self._deepspeed.zero.register_external_parameter(causal, weight)
        if hasattr(module, "peft_config"):
            log.once("ZeRO stage 3 fetches weights layer by layer: adapted layers are computed as peft does, slower, same result")

    @contextlib.contextmanager
    def accumulate(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        """See Engine; stages 2 and 3 add up each process's share of the gradients, which are averaged after each micro-batch."""
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        """See Engine."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def clip(self, module: nn.Module, max_norm: float) -> Tensor:
        """See Engine: the norm is taken now, the gradients are scaled when the step is."""
        zero = self._engine.optimizer
        zero.clip_grad = max_norm
        if self._zero.stage == 3:
            norms = torch.stack([torch.as_tensor(norm, dtype=torch.float32) for norm in zero._get_norm_groups()])
            scaled = torch.linalg.vector_norm(torch.where(norms < 0, torch.inf, norms))  # -1 stands for what is not finite
        else:
            scaled = torch.as_tensor(zero.scaled_global_norm(), dtype=torch.float32)
        return scaled / zero.loss_scale

    def step(self, optimizer: Any) -> bool:
        """See Engine."""
        self._engine.step()
        return self._engine.was_step_applied()

    def scaler_state(self) -> dict[str, Any] | None:
        """See Engine."""
        if self.hardware.precision != "fp16":
            return None
        return {name: value for name, value in vars(self._engine.optimizer.loss_scaler).items() if isinstance(value, int | float)}

    def load_scaler_state(self, state: dict[str, Any] | None) -> None:
        """See Engine; what another engine's scaling kept means nothing here, and the scale is then found anew."""
        known = vars(self._engine.optimizer.loss_scaler) if self.hardware.precision == "fp16" else {}
        if state is not None and set(state) <= set(known):
            known.update(state)

    @contextlib.contextmanager
    def whole(self, module: nn.Module) -> Iterator[None]:
        """See Engine: those that learn come from their fp32 copies."""
        with self._whole(module):
            yield

    @contextlib.contextmanager
    def _whole(self, module: nn.Module) -> Iterator[dict[int, nn.Parameter]]:
        """On rank 0, by the identity of the weights they stand for, the whole ones on the CPU; empty elsewhere."""
        values = {}
        for weight in self._kept(module):
            value = self._gathered(weight)  # with all processes, whoever needs it
            if self.accelerator.is_main_process:
                values[id(weight)] = value.detach().to("cpu", copy=True)
        with stand_in(module, values) as standing:
            yield standing

    def _kept(self, module: nn.Module) -> list[nn.Parameter]:
        """The weights that are saved, each once: of an adapter those that learn."""
        weights = list(module.parameters())
        return [weight for weight in weights if weight.requires_grad] if hasattr(module, "peft_config") else weights

    def _gathered(self, weight: nn.Parameter) -> Tensor:
        """The whole weight, in fp32 where it learns."""
        if weight.requires_grad:
            return self._deepspeed.utils.safe_get_full_fp32_param(weight)
        with self._fetched(weight):
            return weight.data.clone()

    def _fetched(self, weight: nn.Parameter) -> contextlib.AbstractContextManager[Any]:
        """Within, the weight is whole; what is written into it on rank 0 is kept."""
        if self._zero.stage == 3:
            return self._deepspeed.zero.GatheredParameters([weight], modifier_rank=0)
        return contextlib.nullcontext()

    def load_whole(self, module: nn.Module, load: Callable[[], None]) -> None:
        """See Engine: rank 0 reads, the others are told."""
        kept = self._kept(module)  # before others stand in for them
        with self._whole(module) as standing:
            failure = None
            if self.accelerator.is_main_process:
                try:
                    load()
                except Exception as problem:  # it is raised below, on all processes
                    failure = problem
            failures = [failure]
            torch.distributed.broadcast_object_list(failures, device=self.device)
            if failures[0] is not None:
                raise failures[0]
            for weight in kept:
                self._put(weight, standing.get(id(weight)))
        torch.distributed.barrier()

    @torch.no_grad()
    def _put(self, weight: nn.Parameter, value: Tensor | None) -> None:
        """A whole value, of rank 0, into the shares of all and into what computes."""
        shape = getattr(weight, "ds_shape", weight.shape)
        dtype = torch.float32 if weight.requires_grad else weight.dtype
        whole = torch.empty(shape, dtype=dtype, device=self.device) if value is None else value.to(self.device, dtype)
        torch.distributed.broadcast(whole, 0)
        if weight.requires_grad:
            self._deepspeed.utils.safe_set_full_fp32_param(weight, whole)
        with self._fetched(weight):
            weight.data.copy_(whole)

    def optimizer_state(self, module: nn.Module, optimizer: Any) -> dict[str, Any]:
        """See Engine."""
        inner = self._engine.optimizer.optimizer
        found: dict[str, dict[str, Any]] = {}
        one = next((state for flat in self._shares() if (state := inner.state.get(flat))), {})
        keys = [key for key, value in one.items() if isinstance(value, Tensor) and value.dim()]
        self._link_moments()
        for weight in self._learning(module):
            state = {key: self._deepspeed.utils.safe_get_full_optimizer_state(weight, key) for key in keys}
            if self.accelerator.is_main_process and one:
                whole = {key: value.detach().to("cpu", copy=True) for key, value in state.items()}
                steps = {"step": torch.tensor(float(one["step"]))} if "step" in one else {}
                found[self._names[id(weight)]] = {**steps, **whole}
        groups = zip(inner.param_groups, self._groups, strict=True)
        return {MOMENTS: found, GROUPS: [{**group, "params": names} for group, names in groups]}

    @torch.no_grad()
    def load_optimizer_state(self, module: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
        """See Engine."""
        moments = state_of([name for names in self._groups for name in names], state)[MOMENTS]
        if not moments:
            return
        zero = self._engine.optimizer
        one = next(iter(moments.values()))
        keys = [key for key, value in one.items() if isinstance(value, Tensor) and value.dim()]
        for flat in self._shares():
            zero.optimizer.state[flat] = {key: torch.zeros_like(flat) for key in keys}
            if "step" in one:
                counts = isinstance(zero.optimizer, self._deepspeed.ops.adam.DeepSpeedCPUAdam)
                steps = float(one["step"])
                zero.optimizer.state[flat]["step"] = int(steps) if counts else torch.tensor(steps, device=flat.device)
        self._link_moments()
        for weight in self._learning(module):
            for key in keys:
                value = moments[self._names[id(weight)]][key].to(self.device, torch.float32)
                self._deepspeed.utils.safe_set_full_optimizer_state(weight, value, key)

    def _link_moments(self) -> None:
        """Let weights know their moments: DeepSpeed 0.19.8 does so when the first of several groups has any, and never again."""
        zero = self._engine.optimizer
        if self._zero.stage < 3 and zero.optimizer.state:
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    def _shares(self) -> list[Tensor]:
        """This process's shares of the weights in fp32, laid end to end, group by group."""
        zero = self._engine.optimizer
        return zero.fp32_partitioned_groups_flat if self._zero.stage == 3 else zero.single_partition_of_fp32_groups

    def _learning(self, module: nn.Module) -> list[nn.Parameter]:
        return [weight for weight in module.parameters() if weight.requires_grad]


def _import_deepspeed(*, on_cpu: bool) -> Any:
    """DeepSpeed, told which hardware it is on, and to speak of what goes wrong alone."""
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # it would take the GPU that use_cpu: true leaves alone
    os.environ.setdefault("LOCAL_RANK", "0")  # without which it does not start
    try:
        import deepspeed
    except ImportError as problem:
        raise MissingExtra("deepspeed", "deepspeed", "deepspeed") from problem
    deepspeed.utils.logger.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed.c10d_logger")  # of names that it calls
    # On a CPU it would compile sums over shared memory of its own at the first start, for a minute; gloo's are as right.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _join_alone(device: torch.device) -> None:
    """A group of one, where the run has a single process: DeepSpeed computes nothing without a group."""
    if not torch.distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, rank=0, world_size=1, store=torch.distributed.HashStore())
