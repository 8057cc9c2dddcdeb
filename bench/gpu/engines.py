"""The engines on GPUs, NCCL between them: `torchrun --nproc_per_node=N bench/gpu/engines.py [--layers 8]`, a minute a cell.

Every engine trains one random Llama on all N devices for a few steps: seconds a step, peak memory of a device, loss of the last
step, which all engines of one method must have alike. `--toy` does the cells on CPUs, over gloo, with narrow layers. Not yet run
on a device.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CELLS = {
    "ddp, lora": {"finetuning_type": "lora"},
    "fsdp, lora": {"finetuning_type": "lora", "fsdp": "true"},
    "ddp, qlora": {"finetuning_type": "lora", "quantization_bit": 4},
    "fsdp, qlora": {"finetuning_type": "lora", "quantization_bit": 4, "fsdp": "true"},
    "fsdp, qlora, offload": {"finetuning_type": "lora", "quantization_bit": 4, "fsdp": "full_shard offload"},
    "fsdp, full": {"finetuning_type": "full", "fsdp": "true"},
    "fsdp, kept": {"finetuning_type": "full", "fsdp": "shard_grad_op"},
    "fsdp, offload": {"finetuning_type": "full", "fsdp": "full_shard offload"},
    "fsdp, async": {"finetuning_type": "full", "fsdp": "true", "save_async": True},
    "tensor parallel": {"finetuning_type": "full", "tensor_parallel_size": 2},
    "context": {"finetuning_type": "full", "context_parallel_size": 2},
    "context, fsdp": {"finetuning_type": "full", "context_parallel_size": 2, "fsdp": "true"},
}
STEPS = 6


def main() -> None:
    """Make the model on rank 0, then a line a cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", type=Path, default=Path("/dev/shm/hone-engines"), help="a folder that all processes see")
    parser.add_argument("--layers", type=int, default=8, help="of width 2048")
    parser.add_argument("--toy", action="store_true")
    asked = parser.parse_args()
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank == 0:
        make(asked.place, asked.layers, toy=asked.toy)
    else:
        while not (asked.place / "ready").exists():
            time.sleep(1)
    base = json.loads((asked.place / "base.json").read_text())
    for name, settings in CELLS.items():
        parts = world // settings.get("tensor_parallel_size", 1) // settings.get("context_parallel_size", 1)
        batch = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": max(1, (4 if asked.toy else 16) // parts)}
        folder = asked.place / name.replace(", ", "-").replace(" ", "-")
        line = train({**base, **batch, **settings, "output_dir": str(folder)}, asked.place / f"{folder.name}-{rank}.json")
        if rank == 0:
            print(f"{name:<20} {line}", flush=True)


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
    base |= {"gradient_checkpointing": False, "overwrite_output_dir": True, "join_timeout": 600}
    (place / "base.json").write_text(json.dumps(base))
    (place / "ready").touch()


def train(settings: dict, file: Path) -> str:
    """Train one cell in this process; its figures in words."""
    from hone.config import load, to_yaml
    from hone.training.prepare import prepare
    from hone.training.session import carry_out

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


if __name__ == "__main__":
    main()
