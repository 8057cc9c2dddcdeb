"""The engines on GPUs, NCCL between them: `torchrun --nproc_per_node=N bench/gpu/engines.py [--model 8]`, a minute a cell.

Every engine trains one random Llama on all N devices for a few steps: seconds a step, peak memory of a device, loss of the last
step, which all engines must have alike. FSDP2 over weights in 4 bits (QLoRA) is refused by hone; `--qlora` shows what torch and
bitsandbytes make of it today: whether a layer in 4 bits computes the same after it was sharded, forward and backward.
`--toy` does the cells on CPUs, over gloo, with narrow layers. Not yet run on a device.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CELLS = {
    "ddp, lora": {"finetuning_type": "lora"},
    "fsdp, lora": {"finetuning_type": "lora", "fsdp": "true"},
    "fsdp, full": {"finetuning_type": "full", "fsdp": "true"},
    "fsdp, kept": {"finetuning_type": "full", "fsdp": "shard_grad_op"},
    "fsdp, offload": {"finetuning_type": "full", "fsdp": "full_shard offload"},
    "fsdp, async": {"finetuning_type": "full", "fsdp": "true", "save_async": True},
    "tensor parallel": {"finetuning_type": "full", "tensor_parallel_size": 2},
}
STEPS = 6


def main() -> None:
    """Make the model on rank 0, then a line a cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", type=Path, default=Path("/dev/shm/hone-engines"), help="a folder that all processes see")
    parser.add_argument("--layers", type=int, default=8, help="of width 2048")
    parser.add_argument("--qlora", action="store_true")
    parser.add_argument("--toy", action="store_true")
    asked = parser.parse_args()
    if asked.qlora:
        compare_four_bits()
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank == 0:
        make(asked.place, asked.layers, toy=asked.toy)
    else:
        while not (asked.place / "ready").exists():
            time.sleep(1)
    base = json.loads((asked.place / "base.json").read_text())
    for name, settings in CELLS.items():
        parts = world // settings.get("tensor_parallel_size", 1)
        batch = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": max(1, (4 if asked.toy else 16) // parts)}
        folder = asked.place / name.replace(", ", "-").replace(" ", "-")
        line = train({**base, **batch, **settings, "output_dir": str(folder)}, asked.place / f"{folder.name}-{rank}.json")
        if rank == 0:
            print(f"{name:<18} {line}", flush=True)


def make(place: Path, layers: int, *, toy: bool = False) -> None:
    """A random model, rows and the settings that all cells share."""
    from engines import make_base
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    place.mkdir(parents=True, exist_ok=True)
    base = make_base(place)
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    width = 64 if toy else 2048
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=2 if toy else layers,
        num_attention_heads=16, num_key_value_heads=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(place / "model")
    base |= {"use_cpu": toy, "bf16": True, "max_steps": STEPS, "save_steps": STEPS, "learning_rate": 1e-4}
    base |= {"gradient_checkpointing": False, "overwrite_output_dir": True}
    (place / "base.json").write_text(json.dumps(base))
    (place / "ready").touch()


def train(settings: dict, file: Path) -> str:
    """Train one cell in this process; its figures in words."""
    from hone.config import load, to_yaml
    from hone.training.session import carry_out, prepare

    file.write_text(json.dumps(settings))
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    run = load([str(file)], "train")
    session = prepare(run, settings=to_yaml(run))
    assert not isinstance(session, str), session
    outcome = carry_out(session)
    records = [json.loads(line) for line in (Path(settings["output_dir"]) / "trainer_log.jsonl").read_text().splitlines()]
    last = [record["loss"] for record in records if "loss" in record][-1]
    seconds = outcome.metrics["train_runtime"] / STEPS
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    return f"{seconds:.3f} s a step, {peak / 2**30:.2f} GiB, loss {last:.4f}"


def compare_four_bits() -> None:
    """A frozen layer in 4 bits, held as bfloat16, alone and under fully_shard: the largest difference of result and gradient."""
    from bitsandbytes.nn import Linear4bit
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    torch.manual_seed(0)
    weight, x = torch.randn(512, 512), torch.randn(8, 512, device="cuda", dtype=torch.bfloat16)
    found = []
    for kind in ("alone", "sharded"):
        layer = Linear4bit(512, 512, bias=False, compute_dtype=torch.bfloat16, quant_storage=torch.bfloat16, quant_type="nf4")
        layer.load_state_dict({"weight": weight.to(torch.bfloat16)})
        layer = torch.nn.Sequential(layer.to("cuda")).requires_grad_(False)
        if kind == "sharded":
            fully_shard(layer, mesh=init_device_mesh("cuda", (dist.get_world_size(),)))
        seen = x.clone().requires_grad_()
        result = layer(seen)
        result.float().square().sum().backward()
        found.append((result.detach().float(), seen.grad.float()))
    gaps = [float((one - other).abs().max()) for one, other in zip(*found, strict=True)]
    if dist.get_rank() == 0:
        print(f"4 bits under fully_shard: result differs by {gaps[0]:.2g}, gradient by {gaps[1]:.2g}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
