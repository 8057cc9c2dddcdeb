"""Weights, gradients and moments in shards, a share on every process, by torch's own `fully_shard` (FSDP2).

Does not know what is trained, nor how a checkpoint is laid out.

A layer is a unit: its weights are whole while it computes, there and in the backward pass. All other weights (embeddings, the
last norm, the head and what sits beside it) are the root's, whole from the step's first forward to its last backward. Products
are taken under autocast as everywhere; the units' weights are sent in that type, the root's in their own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hone.adapters.apply import saved_weights
from hone.config.sharding import sharding_of
from hone.errors import CheckpointError, HoneError, TrainingError
from hone.models.quantize import as_numbers
from hone.training.engines.base import Engine, Hardware, named
from hone.training.engines.moments import gather_moments, load_moments, weight_names
from hone.training.engines.stand_in import stand_in
from hone.training.engines.tensors import split_products
from hone.training.engines.units import few_learn, find_units

# The tap gives logits of width 0, a view of the hidden states, which nobody writes into.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor", category=UserWarning)

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class FsdpEngine(Engine):
    """Every process has a share of every weight and of its moments."""

    tries_first = True

    def __init__(self, hardware: Hardware):
        self.sharding = sharding_of(hardware.parallel)
        super().__init__(hardware)
        self._width = hardware.parallel.tensor_parallel_size
        self.replicas *= self._width
        self._waits = False
        self.mesh, self._together = self._meshes(self.accelerator.num_processes)

    def join(self, *handlers: Any, **more: Any) -> Accelerator:
        """As of every engine, in a group that reduces in host memory too; a single process is a group of one."""
        cpu = self.hardware.use_cpu or not torch.accelerator.is_available()
        parallel = self.hardware.parallel
        if not cpu:
            torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
        backend = parallel.ddp_backend or ("gloo" if cpu else "cpu:gloo,cuda:nccl")
        alone = {} if "WORLD_SIZE" in os.environ else {"rank": 0, "world_size": 1, "store": dist.HashStore()}
        if not dist.is_initialized():
            dist.init_process_group(backend, timeout=timedelta(seconds=parallel.ddp_timeout), **alone)
        return super().join(*handlers, **more)

    def _meshes(self, world: int) -> tuple[DeviceMesh, DeviceMesh | None]:
        """Of the processes that share weights, and of those that compute a layer together."""
        kind, inner = self.device.type, self._width
        if world % inner:
            raise TrainingError(f"tensor_parallel_size: {inner} does not divide the {world} processes; write a number that does")
        if self.sharding.hybrid:
            here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
            if inner > 1:
                raise TrainingError("hybrid_shard does not go with tensor_parallel_size; write full_shard")
            return init_device_mesh(kind, (world // here, here), mesh_dim_names=("machines", "processes")), None
        if inner == 1:
            return init_device_mesh(kind, (world,)), None
        both = init_device_mesh(kind, (world // inner, inner), mesh_dim_names=("shards", "products"))
        return both["shards"], both["products"]

    @property
    def held(self) -> torch.device:
        """See Engine. Weights go to the device a unit at a time, so that they need not fit there together."""
        if self.sharding.one_loads and not self.accelerator.is_main_process:
            return torch.device("meta")
        return torch.device("cpu")

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer | None) -> tuple[nn.Module, Any]:
        """Shard the module in place, unit by unit, and give the optimizer the shards in place of the weights."""
        before = weight_names(module)
        read = {name: weight.detach() for name, weight in module.named_parameters()}
        if self._together is not None:
            split_products(module, self._together)
        self._spread(module, self.sharding.units)
        if self.sharding.one_loads:
            self._send(module, read)
        self._waits = few_learn(module)
        if self.hardware.precision != "no":
            module.forward = torch.autocast(self.device.type, _TYPES[self.hardware.precision])(module.forward)
        if optimizer is None:
            return module, None
        after = dict(module.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [after[before[id(weight)]] for weight in group["params"]]
            if self._together is not None:  # torch steps several weights at once only where they lie on the same processes
                group.update({key: False for key in ("foreach", "fused") if key in group})
        return module, self.accelerator.prepare_optimizer(optimizer)

    def _send(self, module: nn.Module, read: dict[str, Tensor]) -> None:
        """Each process's share of what rank 0 has `read`, and all of its buffers, where there were none but shapes."""
        told = [[(name, tuple(weight.shape), weight.dtype) for name, weight in read.items()]]
        dist.broadcast_object_list(told, src=0)
        if differing := set(told[0]) ^ {(name, tuple(weight.shape), weight.dtype) for name, weight in read.items()}:
            raise TrainingError(
                f"fsdp: cpu_ram_efficient_loading: {min(map(str, differing))} differs between processes; leave it out"
            )
        if not self.accelerator.is_main_process:
            module.to_empty(device="cpu" if self.sharding.offload else self.device)
        for name, weight in module.named_parameters():
            here = read[name] if self.accelerator.is_main_process else torch.empty_like(read[name], device=self.device)
            self._set(weight, here.to(self.device))
        for inner in module.modules():
            for name, buffer in inner._buffers.items():
                if buffer is not None:
                    inner._buffers[name] = buffer.to(self.device)
                    dist.broadcast(inner._buffers[name], src=0)

    def share(self, module: nn.Module) -> nn.Module:
        """See Engine. It computes in the type of its weights, as it does elsewhere."""
        self._spread(module, ())
        return module

    def _spread(self, module: nn.Module, names: tuple[str, ...]) -> None:
        as_numbers(module, _TYPES.get(self.hardware.precision, torch.float32), self.device)
        if packed := [name for name, weight in module.named_parameters() if not weight.is_floating_point()]:
            raise TrainingError(
                f"fsdp: weights in 8 bits ({packed[0]} ...) are not sharded; write quantization_bit: 4, or leave fsdp out"
            )
        units = find_units(module, names)
        for unit in units:
            self._shard(unit, self.hardware.precision)
        self._shard(module, None)
        if self.sharding.ahead:
            for unit, following in itertools.pairwise(units):
                unit.set_modules_to_forward_prefetch([following])
        left = [name for name, weight in module.named_parameters() if not isinstance(weight, DTensor)]
        if left or not isinstance(module, FSDPModule):
            raise TrainingError(f"fsdp: {len(left)} weights were not sharded, such as {', '.join(left[:3])}")

    def _shard(self, unit: nn.Module, precision: str | None) -> None:
        """precision: None for the root, which torch keeps whole from the forward to the backward pass."""
        dtype, reshard = (None, None) if precision is None else (_TYPES.get(precision), self.sharding.reshard)
        types = MixedPrecisionPolicy(dtype, dtype and torch.float32, cast_forward_inputs=False)
        offload = CPUOffloadPolicy(pin_memory=self.device.type == "cuda") if self.sharding.offload else OffloadPolicy()
        fully_shard(unit, mesh=self.mesh, reshard_after_forward=reshard, mp_policy=types, offload_policy=offload)

    @contextlib.contextmanager
    def accumulate(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        """See Engine. Where much learns, gradients are sent at once: kept whole they would be as large as the model."""
        assert isinstance(module, FSDPModule), "what was wrapped"
        module.set_requires_gradient_sync(last or not self._waits)
        yield

    def clip(self, module: nn.Module, max_norm: float) -> Tensor:
        """See Engine."""
        self.accelerator.unscale_gradients()
        alike: dict[DeviceMesh, list[nn.Parameter]] = {}
        for weight in module.parameters():
            if isinstance(weight.grad, DTensor):
                alike.setdefault(weight.grad.device_mesh, []).append(weight)
        norms = [torch.nn.utils.get_total_norm([weight.grad for weight in weights]) for weights in alike.values()]
        norm = torch.stack([one.full_tensor() for one in norms]).norm()
        for weights in alike.values() if max_norm else ():
            torch.nn.utils.clip_grads_with_norm_(weights, max_norm, norm)
        return norm

    @contextlib.contextmanager
    def whole(self, module: nn.Module) -> Iterator[None]:
        """See Engine. Other processes see shards; one weight after the other is gathered, and rank 0 alone keeps it."""
        with contextlib.ExitStack() as stack:
            copies = self._gathered(module)
            if self.accelerator.is_main_process:
                stack.enter_context(_in_place_of(module, copies))
            yield

    def load_whole(self, module: nn.Module, load: Callable[[], None]) -> None:
        """See Engine. Rank 0 reads; each process is sent its share."""
        copies, failure = self._gathered(module), ""
        if self.accelerator.is_main_process:
            try:
                with _in_place_of(module, copies):
                    load()
            except HoneError as problem:
                failure = str(problem)
        told = [failure]
        dist.broadcast_object_list(told, src=0)
        if told[0]:
            raise CheckpointError(told[0])
        for weight in saved_weights(module):
            copy = copies.get(id(weight))
            full = torch.empty(weight.shape, dtype=weight.dtype, device=self.device) if copy is None else copy.to(self.device)
            self._set(weight, full)

    def parts(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """See Engine."""
        _reshard(module)
        return named(module, saved_weights(module))

    def moments(self, module: nn.Module, optimizer: Any) -> dict[str, Any]:
        """See Engine."""
        _reshard(module)
        return super().moments(module, optimizer)

    @torch.no_grad()
    def _gathered(self, module: nn.Module) -> dict[int, Tensor]:
        """Whole copies in host memory of the weights that are saved, by identity of the weight; on rank 0 alone."""
        _reshard(module)
        copies = {}
        for weight in saved_weights(module):
            full = self._full(weight)
            if self.accelerator.is_main_process:
                copies[id(weight)] = full
        return copies

    def _full(self, tensor: Tensor) -> Tensor:
        """A sharded tensor, whole, in host memory; all processes call it."""
        assert isinstance(tensor, DTensor), "a sharded weight"
        return tensor.detach().to(self.device).full_tensor().cpu()

    @torch.no_grad()
    def _set(self, weight: Tensor, full: Tensor) -> None:
        """Write each process's share of rank 0's `full` into the weight; all processes call it, the others with any numbers."""
        assert isinstance(weight, DTensor), "a sharded weight"
        full = full.contiguous()
        if weight.device_mesh.size() < self.accelerator.num_processes:  # each such mesh has a first process of its own
            dist.broadcast(full, src=0)
        weight.to_local().copy_(distribute_tensor(full, weight.device_mesh, weight.placements).to_local())

    def optimizer_state(self, module: nn.Module, optimizer: Any) -> dict[str, Any]:
        """See Engine."""
        _reshard(module)
        main = self.accelerator.is_main_process

        def whole(_: nn.Parameter, value: Tensor) -> Tensor:
            full = self._full(value)
            return full if main else full.new_empty(0)

        return gather_moments(module, optimizer, whole)

    def load_optimizer_state(self, module: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
        """See Engine."""
        _reshard(module)

        def share(weight: nn.Parameter, value: Tensor) -> Tensor:
            assert isinstance(weight, DTensor), "a sharded weight"
            full = value.to(self.device)
            return distribute_tensor(full, weight.device_mesh, weight.placements).to(weight.device)

        load_moments(module, optimizer, state, share)


def _reshard(module: nn.Module) -> None:
    """Let go of whole weights: after an evaluation the root's are still there."""
    for inner in module.modules():
        if isinstance(inner, FSDPModule):
            inner.reshard()


@contextlib.contextmanager
def _in_place_of(module: nn.Module, copies: dict[int, Tensor]) -> Iterator[None]:
    """While it is held, `module` has ordinary weights where it has shards, and the classes that its modules had before."""
    classes = [(inner, type(inner)) for inner in module.modules() if isinstance(inner, FSDPModule)]
    hooks = [(inner, inner._load_state_dict_post_hooks) for inner in module.modules()]  # fully_shard's look for shards
    for inner, _ in hooks:
        inner._load_state_dict_post_hooks = OrderedDict()
    for inner, kind in classes:
        inner.__class__ = kind.__mro__[2]
    try:
        with stand_in(module, copies):
            yield
    finally:
        for inner, kind in classes:
            inner.__class__ = kind
        for inner, own in hooks:
            inner._load_state_dict_post_hooks = own
