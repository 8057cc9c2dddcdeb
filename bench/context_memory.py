"""What does a process keep for the backward pass where a row is cut over several? `python bench/context_memory.py`.

A random Llama of 2 layers (width 256, 8 heads, 4 of keys) reads one row of 2,048 tokens in three sequences, learned from the
middle of each on, on 1, 2 and 4 processes of gloo; bytes of all tensors that are kept, weights aside, of the process with most.
"""

from __future__ import annotations

import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from hone.chat.encoded import Encoded
from hone.data.batch import pack
from hone.models.context import Context
from hone.models.policy import Policy

LENGTHS = (1200, 448, 400)


def kept(policy: Policy) -> int:
    """Bytes that a forward pass of the row keeps."""
    found: dict[int, int] = {}
    weights = {weight.untyped_storage().data_ptr() for weight in policy.module.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, 512, (length,), generator=draw).int().numpy() for length in LENGTHS]
    labels = [torch.where(torch.arange(len(row)) < len(row) // 2, -100, torch.from_numpy(row)).int().numpy() for row in rows]
    batch = pack([Encoded(row, learned) for row, learned in zip(rows, labels, strict=True)])
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = policy.token_losses(batch).sum()
    size = sum(found.values())
    loss.backward()
    return size


def work(rank: int, world: int, port: int) -> None:
    """What a process does; the first tells."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4
    )
    policy = Policy(LlamaForCausalLM(config).train())
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    policy.context = Context(None, world, rank) if world > 1 else None
    sizes: list[int] = [0] * world
    dist.all_gather_object(sizes, kept(policy))
    if rank == 0:
        print(
            f"{world} processes: {max(sizes) / 2**20:.1f} MiB kept by one at most, {min(sizes) / 2**20:.1f} at least", flush=True
        )
    dist.destroy_process_group()


def main() -> None:
    for world in (1, 2, 4):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        multiprocessing.spawn(work, (world, port), nprocs=world)


if __name__ == "__main__":
    main()
