"""Rehearsal: a micro-batch goes forward and backward through tensors without memory, and what they would hold is counted.

Does not know settings, data sets or optimizers: it is given a model, and what to do with it. Whatever the layers do, with
whatever kernels, adapters and checkpoints, is what is counted.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hone.models.checkpointing import ATTENTION

PARTS = ("activations", "logits", "gradients", "host")
DEVICE = tuple(part != "host" for part in PARTS)
"""The parts that the device holds; the rest is in the host's memory."""
OUTSIDE = -1
"""In place of a layer's number: what belongs to none. It is also the last row of a table of layers."""

_aten = torch.ops.aten
_BY_MASK = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
NO_WORK = {_aten.empty.memory_format, _aten.empty_like.default, _aten.empty_strided.default, _aten.new_empty.default}
"""Operations that make a tensor and leave it as it is."""

LARGE = 2**24
"""Numbers of a tensor from which on it is never made, though all that it follows from is known."""
_WITH_COPY = {_aten.logsumexp.default}
"""Operations that make a tensor as large as their first within themselves."""
_BATCHED = {_aten.bmm.default, _aten.baddbmm.default}
"""Products of many matrices: on a CPU in 16 bits oneDNN writes out a matrix that stands for all of them."""


THIN = 32
"""A product is thin where one side of a matrix has no more than so many numbers, as an adapter's; then the rest waits for it."""

_INVOLVED = ("silu", "gelu", "sigmoid", "tanh", "exp", "pow", "rsqrt", "softplus", "_softmax", "_log_softmax", "logsumexp", "sum")
"""How the names of operations begin that compute more of a number than a CPU does while it reads it."""


@dataclass(frozen=True)
class Speed:
    """What a device was seen to do in a second. flops, thin, attention: operations of products, of thin ones, of attention.

    bytes, involved: bytes that are read and written by plain operations, and by those that compute more of each number.
    least_seconds: of one operation, however small; least_product: what a product takes more, before it multiplies.
    """

    flops: float
    thin: float
    attention: float
    bytes: float
    involved: float
    least_seconds: float
    least_product: float = 0.0

    def seconds(self, name: str, flops: float, size: int, sides: tuple[int, ...]) -> float:
        """Of one operation that takes so many and moves so many bytes, whichever is the longer. sides: of its matrices."""
        rate = self.flops
        if name.startswith(ATTENTION):
            rate = self.attention
        elif sides and min(sides) <= THIN:
            rate = self.thin
        width = self.involved if name.startswith(_INVOLVED) else self.bytes
        return max(flops / rate, size / width) + self.least_seconds + (self.least_product if sides else 0.0)


@dataclass
class Segment:
    """A stretch of the pass. layer: whose, or OUTSIDE; peak, end: bytes [layer they were made in, part] at its highest, and last.

    seconds: of attention, which grows with the square of the length, and of all else; formed: bytes of all that was made.
    """

    layer: int
    backward: bool
    peak: np.ndarray
    end: np.ndarray
    attention_seconds: float = 0.0
    other_seconds: float = 0.0
    formed: int = 0


class Watch(TorchDispatchMode):
    """While it is held: every tensor without memory that is made, by layer and part, until it is gone; and what operations take.

    Tensors with memory (ids, labels, positions), and whole numbers that come from nowhere, are computed with as they are, unless
    the result is LARGE, so that what depends on them is what it will be; what is made of them is counted like the rest.
    """

    def __init__(self, fake: FakeTensorMode, num_layers: int, vocabulary: int, speed: Speed):
        super().__init__()
        self._fake, self._vocabulary, self._speed = fake, vocabulary, speed
        self._held = np.zeros((num_layers + 1, len(PARTS)), np.int64)
        self._total, self._highest = 0, -1
        self._known: dict[int, tuple[int, int, int]] = {}
        self.segments: list[Segment] = []
        self.enter(OUTSIDE)

    def enter(self, layer: int, *, backward: bool = False) -> None:
        """A new segment begins."""
        if self.segments:
            self.segments[-1].end = self._held.copy()
        self._highest = self._total
        self.segments.append(Segment(layer, backward, self._held.copy(), self._held))

    def close(self) -> None:
        """The last segment ends."""
        self.segments[-1].end = self._held.copy()

    def ignore(self, tensor: Tensor) -> None:
        """It was there before, and is counted elsewhere."""
        self._known.setdefault(tensor.untyped_storage()._cdata, (0, 0, 0))

    def is_gradient(self, weight: Tensor) -> None:
        """What was made for `weight` is its gradient now."""
        key = weight.grad.untyped_storage()._cdata
        layer, part, size = self._known.get(key, (OUTSIDE, 0, 0))
        self._known[key] = (layer, PARTS.index("gradients"), size)
        self._held[layer, part] -= size
        self._held[layer, PARTS.index("gradients")] += size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        kwargs = dict(kwargs or {})
        in_host = bool(kwargs.pop("pin_memory", False))
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        fakes = [one for one in given if isinstance(one, FakeTensor)]
        if not fakes and (given or _counts(func, args, kwargs)) and not self._is_large(func, args, kwargs, given):
            return self._seen(given, func(*args, **kwargs))
        if func.__name__.partition(".")[0].endswith("_") and len(fakes) and not isinstance(given[0], FakeTensor):
            raise RuntimeError(f"{func.__name__} writes numbers that are not there")
        if func in _BY_MASK:
            args = (args[0], _numbers(args[1]), *args[2:])
        if func is _aten._grouped_mm.default:  # torch 2.13 knows its shape in bfloat16 alone (2026-11)
            out = args[0].new_empty(_grouped_shape(*args[:3]))
        elif fakes:
            out = func(*args, **kwargs)
        else:
            with self._fake:
                out = func(*args, **kwargs)
        made = [one for one in tree_leaves(out) if isinstance(one, FakeTensor)]
        if sum([self._see(one, in_host=in_host) for one in made]) or func.__name__.partition(".")[0].endswith("_"):
            self._charge(func, args, kwargs, out, [*given, *made])
        for one in _within(func, given):
            self._see(one)
        return out

    def _is_large(self, func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> bool:
        """Whether what is made of tensors with memory is to have none, as a mask of all tokens by all."""
        if math.prod(one.numel() for one in given) <= LARGE or func.__name__.partition(".")[0].endswith("_"):
            return False
        try:
            with self._fake:
                made = tree_leaves(func(*args, **kwargs))
        except (DynamicOutputShapeException, DataDependentOutputException):
            return False
        return any(isinstance(one, Tensor) and one.numel() > LARGE for one in made)

    def _seen(self, given: list[Tensor], out: Any) -> Any:
        """What was made of tensors with memory, which were there before unless they were made so too."""
        for one in given:
            storage = one.untyped_storage()
            if storage._cdata not in self._known:
                self._known[storage._cdata] = (OUTSIDE, 0, 0)
                weakref.finalize(storage, self._gone, storage._cdata)
        for one in tree_leaves(out):
            if isinstance(one, Tensor):
                self._see(one)
        return out

    def _see(self, tensor: Tensor, *, in_host: bool = False) -> bool:
        """Whether it is new. in_host: it was asked for there."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return False
        layer, size = self.segments[-1].layer, storage.nbytes()
        part = PARTS.index("host" if in_host else "logits" if self._vocabulary in tensor.shape else "activations")
        self._known[key] = (layer, part, size)
        weakref.finalize(storage, self._gone, key)
        self._held[layer, part] += size
        self._total += size * DEVICE[part]
        self.segments[-1].formed += size
        if self._total > self._highest:
            self._highest = self._total
            self.segments[-1].peak = self._held.copy()
        return True

    def _gone(self, key: int) -> None:
        layer, part, size = self._known.pop(key)
        self._held[layer, part] -= size
        self._total -= size * DEVICE[part]

    def _charge(self, func: Any, args: Any, kwargs: Any, out: Any, tensors: list[Tensor]) -> None:
        """The time of an operation that writes something."""
        if func in NO_WORK:
            return
        flops = _operations(func, args, kwargs, out)
        size = sum(one.numel() * one.element_size() for one in tensors)
        sides = tuple(side for one in tensors if flops and one.dim() > 1 for side in one.shape[-2:])
        seconds = self._speed.seconds(func.__name__, flops, size, sides)
        if func.__name__.startswith(ATTENTION):
            self.segments[-1].attention_seconds += seconds
        else:
            self.segments[-1].other_seconds += seconds


def _within(func: Any, given: list[Tensor]) -> list[Tensor]:
    """What an operation makes for itself, beside its result."""
    if func in _WITH_COPY:
        return [given[0].clone()]
    if func not in _BATCHED:
        return []
    return [one.contiguous() for one in given if one.dim() == 3 and not one.stride(0) and _in_16_bits_on_cpu(one)]


def _in_16_bits_on_cpu(tensor: Tensor) -> bool:
    return tensor.element_size() == 2 and tensor.device.type == "cpu"


def _counts(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a tensor that comes from nowhere is of whole numbers: places, lengths, the order of things."""
    dtype = kwargs.get("dtype")
    if dtype is None:
        return func._overloadpacket is _aten.arange and all(isinstance(one, int) for one in args)
    return dtype in (torch.int64, torch.int32)


def _operations(func: Any, args: Any, kwargs: Any, out: Any) -> float:
    """Of products, as torch counts them; of some it does not know (2.13, 2026-11), and of attention, of all pairs of tokens."""
    name = func.__name__
    if func is _aten._grouped_mm.default:
        return 2 * args[0].numel() * out.shape[-1]
    if name.startswith(("_scaled_dot_product_", "_varlen_attn")):
        back = "backward" in name
        query, key = args[back], args[back + 1]  # backward, the result's gradient comes first
        if name.startswith("_varlen_attn"):
            ends_N, key_ends_N = args[6:8] if back else args[3:5]
            pairs = query[0].numel() * int((ends_N.diff().long() * key_ends_N.diff()).sum())
        else:
            pairs = query.numel() * key.shape[-2]
        return (10 if back else 4) * pairs
    other = name.partition(".")[0].removesuffix("_")  # of a product that is added in place torch knows the other form alone
    count = flop_registry.get(getattr(_aten, other, None))
    return count(*args, **kwargs, out_val=out) if count else 0


def _numbers(indices: Any) -> list[Any]:
    """A mask with memory as the numbers of its places: how many they are follows from what is in it."""
    found: list[Any] = []
    for index in indices:
        is_mask = isinstance(index, Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor)
        found += index.nonzero().unbind(1) if is_mask else [index]
    return found


def _grouped_shape(left: Tensor, right: Tensor, offsets: Tensor) -> tuple[int, ...]:
    """Of the products of groups of rows with a matrix each, and of both gradients."""
    if left.dim() == 2 and right.dim() == 2:
        return (offsets.shape[0], left.shape[0], right.shape[1])
    return (left.shape[-2], right.shape[-1])


def without_memory(module: nn.Module, device: torch.device) -> FakeTensorMode:
    """Give a module on "meta" weights that say they are on `device`; what is tied stays tied."""
    fake, made = FakeTensorMode(allow_non_fake_inputs=True), {}
    for inner in module.modules():
        for store in (inner._parameters, inner._buffers):
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    with fake:
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                        is_weight = isinstance(tensor, nn.Parameter)
                        made[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_weight else empty
                store[name] = made[id(tensor)]
    return fake


@contextmanager
def watching(layers: list[nn.Module], watch: Watch) -> Iterator[None]:
    """Tell `watch` where each layer begins and ends, in both directions."""
    forward, handles = [True], []

    def begins(number: int, _layer: nn.Module, inputs: Any, given: dict[str, Any]) -> None:
        if not forward[0]:
            return  # it is computed again
        first = next((one for one in (*inputs, *given.values()) if isinstance(one, Tensor)), None)
        if number == 0 and first is not None and first.requires_grad:
            first.register_hook(lambda _: watch.enter(OUTSIDE, backward=True))
        watch.enter(number)

    def ends(number: int, _layer: nn.Module, _inputs: Any, output: Any) -> None:
        if not forward[0]:
            return
        hidden = output if isinstance(output, Tensor) else output[0]
        watch.enter(OUTSIDE)
        if hidden.requires_grad:
            hidden.register_hook(partial(turns, number))

    def turns(number: int, _gradient: Tensor) -> None:
        forward[0] = False
        watch.enter(number, backward=True)

    for number, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(partial(begins, number), with_kwargs=True))
        handles.append(layer.register_forward_hook(partial(ends, number)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def rehearse(
    module: nn.Module, layers: list[nn.Module], loss: Callable[[], Tensor], watch: Watch, *, holds_gradients: bool
) -> list[Segment]:
    """The segments of one micro-batch. holds_gradients: those of an earlier micro-batch are there already.

    Raises what torch raises for operations whose results' sizes depend on numbers that are not there.
    """
    handles = []
    for tensor in (*module.parameters(), *module.buffers()):
        watch.ignore(tensor)
    for weight in module.parameters():
        if weight.requires_grad:
            handles.append(weight.register_post_accumulate_grad_hook(watch.is_gradient))
            weight.grad = weight.detach().clone() if holds_gradients else None
            if holds_gradients:
                watch.ignore(weight.grad)
    try:
        with watching(layers, watch), watch:
            found = loss()
            watch.enter(OUTSIDE)  # what autocast held for all layers is gone
            found.backward()
        watch.close()
    finally:
        for handle in handles:
            handle.remove()
        for weight in module.parameters():
            weight.grad = None
    return watch.segments
