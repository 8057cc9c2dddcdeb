"""Linear layers of a loaded model held in 8 bits of floating point, in place of their weights in 16.

Does not know how a product is taken, nor what is trained on top.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone import log
from hone.errors import ModelError
from hone.kernels import float8
from hone.kernels.lora_linear import product_dtype


class Float8Linear(nn.Linear):
    """weight: the bits, uint8, which nothing takes for numbers; scale: fp32, one for each output. Neither has a gradient."""

    def __init__(self, layer: nn.Linear, device: torch.device):
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        bits, scale = float8.held(layer.weight.detach().to(device))
        self.weight = nn.Parameter(bits, requires_grad=False)
        self.register_buffer("scale", scale)
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().to(device), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """As of a plain layer, in autocast's type or that of x."""
        dtype = product_dtype(x)
        assert dtype is not None, "one tensor has one type"
        return float8.linear(x, self.weight, self.scale, self.bias, dtype)

    def restores(self, dtype: torch.dtype) -> bool:
        """Whether products in `dtype` are taken from the weights as `restored` gives them; elsewhere they are in 8 bits."""
        return not float8.in_8_bits(self.weight, dtype)

    def restored(self, dtype: torch.dtype) -> Tensor:
        """[O, D] in `dtype`: the numbers that are held."""
        return float8.restored(self.weight, self.scale, dtype)


def hold_in_float8(module: PreTrainedModel, device: torch.device, whole: tuple[str, ...] = ()) -> None:
    """Replace every linear layer but the output head and those named `whole`, one after the other, so that few are there twice.

    Says what stays as it was. Raises ModelError where no layer can be held so.
    """
    head = module.get_output_embeddings()
    layers = {
        path: layer
        for path, layer in module.named_modules()
        if type(layer) is nn.Linear and layer is not head and path.rpartition(".")[-1] not in whole
    }
    if not layers:
        raise ModelError(f"quantization_method: fp8: {type(module).__name__} has no linear layers; leave quantization_bit out")
    total, inside = sum(weight.numel() for weight in module.parameters()), 0
    for path, layer in layers.items():
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, Float8Linear(layer, device))
        inside += layer.weight.numel()
        layer.weight = layer.bias = None
    log.info(f"in float8: {inside:,} of {total:,} weights, those of {len(layers)} linear layers; the others stay as they are")
