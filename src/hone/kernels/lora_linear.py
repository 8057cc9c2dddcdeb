"""A frozen linear layer with a LoRA addition, y = x W' + b + s (x A') B', and its gradients in few products; a reference of it.

Does not know whose layer it is, which adapter is meant, nor what the weights are called.

Axes: T token, D width of the input, O width of the output, R rank. `*` stands for any leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hone.kernels.cpu_product import product, watched


@runtime_checkable
class Held(Protocol):
    """Frozen weights that lie in another form, and are turned back for each pass."""

    def restores(self, dtype: torch.dtype) -> bool:
        """Whether products in `dtype` are to be taken from what `restored` gives."""

    def restored(self, dtype: torch.dtype) -> Tensor:
        """[O, D] in `dtype`."""


def reference(
    x: Tensor, weight_OD: Tensor, bias_O: Tensor | None, down_RD: Tensor, up_OR: Tensor, scaling: float, dropout: float = 0.0
) -> Tensor:
    """The specification, [*, O]: the layer of x [*, D] and `scaling` times the addition, from whose x a share is dropped."""
    low = functional.linear(functional.dropout(x, dropout), down_RD)
    return functional.linear(x, weight_OD, bias_O) + functional.linear(low, up_OR) * scaling


def product_dtype(x: Tensor, *weights: Tensor) -> torch.dtype | None:
    """The type that products of these are taken in: autocast's, or the one that all have; None where they differ."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype if all(weight.dtype == x.dtype for weight in weights) else None


def linear(
    x: Tensor,
    weight_OD: Tensor | Held,
    bias_O: Tensor | None,
    down_RD: Tensor,
    up_OR: Tensor,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """The same as `reference`, with gradients of x, down and up alone, in the type of `product_dtype`.

    For the backward pass it keeps x, which needs no copy where it has that type, R numbers a token, and a byte for each input
    where some are dropped (the same ones as functional.dropout drops); never weights that were turned back.
    """
    plain = [weight_OD] if isinstance(weight_OD, Tensor) else []
    assert not any(weight is not None and weight.requires_grad for weight in (*plain, bias_O)), "a frozen layer"
    dtype = product_dtype(x, *plain, down_RD, up_OR)
    assert dtype is not None, "types that differ outside autocast"
    return _apply(x, None, weight_OD, bias_O, down_RD, up_OR, _Form(scaling, dropout, dtype))


def beside(x: Tensor, result: Tensor, down_RD: Tensor, up_OR: Tensor, scaling: float, dropout: float = 0.0) -> Tensor:
    """`linear` where the frozen layer's result [*, O] is there already, with its gradient, from whoever knows its weights."""
    dtype = product_dtype(x, down_RD, up_OR)
    assert dtype is not None, "types that differ outside autocast"
    return _apply(x, result, None, None, down_RD, up_OR, _Form(scaling, dropout, dtype))


@dataclass(frozen=True)
class _Form:
    scaling: float
    dropout: float
    dtype: torch.dtype


def _apply(x: Tensor, *others: Any) -> Tensor:
    """[*, O]. The leading axes come back outside of the function: Falcon, Llama 4 and Gemma 3n add to it in place, which torch
    refuses of a view that a function gives."""
    y_TO = _Lora.apply(x, *others)
    return y_TO.reshape(*x.shape[:-1], y_TO.shape[-1])


class _Lora(torch.autograd.Function):
    """Products of a narrow and a wide matrix are written narrow one first: MKL takes up to 13 times as long for the others.

    (1,576 tokens of width 1,024 and rank 8 in fp32: 0.5 against 6.5 ms for the gradient of `up`.)
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        result: Tensor | None,
        weight_OD: Tensor | Held | None,
        bias_O: Tensor | None,
        down: Tensor,
        up: Tensor,
        form: _Form,
    ) -> Tensor:
        x_TD, mask_TD = x.reshape(-1, x.shape[-1]).to(form.dtype), None
        down_RD, up_OR = down.to(form.dtype), up.to(form.dtype)
        seen_TD = x_TD
        if form.dropout:
            seen_TD, mask_TD = torch.native_dropout(x_TD, form.dropout, True)
        low_RT = down_RD @ seen_TD.T
        if weight_OD is not None:
            bias = None if bias_O is None else bias_O.to(form.dtype)
            y_TO = product(x_TD, _numbers(weight_OD, form.dtype), bias)
            # A checkpoint that keeps products alone has y already, and takes a change of it for a mistake.
            into = {} if watched() else {"out": y_TO}
            y_TO = torch.addmm(y_TO, low_RT.T, up_OR.T, alpha=form.scaling, **into)
        else:
            y_TO = _added(result.reshape(-1, up.shape[0]), low_RT, up_OR, form.scaling)
        ctx.form, ctx.shape, ctx.dtypes = form, x.shape, (x.dtype, down.dtype, up.dtype)
        keeps_x, keeps_low = ctx.needs_input_grad[4], ctx.needs_input_grad[5]
        ctx.held, plain_OD = (None, weight_OD) if isinstance(weight_OD, Tensor) else (weight_OD, None)
        ctx.save_for_backward(x_TD if keeps_x else None, mask_TD, low_RT if keeps_low else None, plain_OD, down_RD, up_OR)
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        form: _Form = ctx.form
        x_TD, mask_TD, low_RT, weight_OD, down_RD, up_OR = ctx.saved_tensors
        slope_TO = gradient.to(form.dtype)
        of_low_RT = up_OR.T @ slope_TO.T  # `scaling` is put in last, where it rounds least
        of_x = of_result = of_down_RD = of_up_OR = None
        if low_RT is not None:
            of_up_OR = _scaled(low_RT @ slope_TO, ctx.dtypes[2], form.scaling).T
        if x_TD is not None:
            seen_TD = x_TD if mask_TD is None else _dropped(x_TD, mask_TD, form.dropout)
            of_down_RD = _scaled(of_low_RT @ seen_TD, ctx.dtypes[1], form.scaling)
        if ctx.needs_input_grad[0]:
            weight_OD = ctx.held if weight_OD is None else weight_OD
            of_x = _of_input(slope_TO, weight_OD, of_low_RT, down_RD, mask_TD, form).to(ctx.dtypes[0]).reshape(ctx.shape)
        if ctx.needs_input_grad[1]:
            of_result = gradient.reshape(*ctx.shape[:-1], gradient.shape[-1])
        return of_x, of_result, None, None, of_down_RD, of_up_OR, None


def _numbers(weight_OD: Tensor | Held, dtype: torch.dtype) -> Tensor:
    return weight_OD.to(dtype) if isinstance(weight_OD, Tensor) else weight_OD.restored(dtype)


def _added(result_TO: Tensor, low_RT: Tensor, up_OR: Tensor, scaling: float) -> Tensor:
    """Never in place: a layer in few bits may keep its result for its own gradient."""
    if result_TO.dtype == low_RT.dtype:
        return torch.addmm(result_TO, low_RT.T, up_OR.T, alpha=scaling)
    return result_TO.add(low_RT.T @ up_OR.T, alpha=scaling).to(result_TO.dtype)


def _scaled(gradient: Tensor, dtype: torch.dtype, scaling: float) -> Tensor:
    return gradient.to(dtype).mul_(scaling)


def _dropped(tensor_TD: Tensor, mask_TD: Tensor, share: float) -> Tensor:
    return torch.ops.aten.native_dropout_backward(tensor_TD, mask_TD, 1 / (1 - share))


def _of_input(
    slope_TO: Tensor, weight_OD: Tensor | Held | None, of_low_RT: Tensor, down_RD: Tensor, mask_TD: Tensor | None, form: _Form
) -> Tensor:
    """[T, D]: through the frozen layer, where its weight is given, and through the addition."""
    if weight_OD is not None and mask_TD is None:
        return product(slope_TO, _numbers(weight_OD, form.dtype).T).addmm_(of_low_RT.T, down_RD, alpha=form.scaling)
    added_TD = of_low_RT.T @ down_RD
    if mask_TD is not None:
        added_TD = _dropped(added_TD, mask_TD, form.dropout)
    if weight_OD is None:
        return added_TD.mul_(form.scaling)
    return product(slope_TO, _numbers(weight_OD, form.dtype).T).add_(added_TD, alpha=form.scaling)
