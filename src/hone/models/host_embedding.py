"""Input embeddings whose weight stays in host memory: the rows of a batch's tokens are read there and sent to the device.

Does not know what is trained; what reads the whole weight for its own purpose gets the one of the host.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.errors import ModelError


class HostEmbedding(nn.Module):
    """`embedding` on the CPU, not among the module's parameters, so that nobody moves it, sends it to others or saves it."""

    def __init__(self, embedding: nn.Module, device: torch.device):
        super().__init__()
        self._within, self._device = (embedding.to("cpu"),), device

    @property
    def weight(self) -> Tensor:
        """[V, D], on the CPU."""
        return self._within[0].weight

    def forward(self, ids_BT: Tensor) -> Tensor:
        """The rows of `ids_BT`, on the device; without gradient."""
        return self._within[0](ids_BT.to("cpu")).to(self._device)


def frozen_embedding(causal: PreTrainedModel) -> nn.Module:
    """The input embeddings, which learn nothing and are nobody's head; ModelError where they are not so."""
    embedding, head = causal.get_input_embeddings(), causal.get_output_embeddings()
    learning = [weight for weight in embedding.parameters() if weight.requires_grad]
    if learning:
        raise ModelError("offload_embedding: the embeddings learn in this run, and are moved where they lie; remove one of them")
    if head is not None and head.weight is embedding.weight:
        raise ModelError(
            "offload_embedding: in this model the output head is the embeddings, which every batch reads whole; leave it out"
        )
    return embedding


def hold_in_host(causal: PreTrainedModel, device: torch.device) -> None:
    """Let the input embeddings stay in host memory while the rest is on `device`."""
    causal.set_input_embeddings(HostEmbedding(frozen_embedding(causal), device))
