"""Peak memory of `hone export` on a checkpoint of a large model's width: `python bench/merge_memory.py CONFIG_DIR [layers ...]`.

Does not hold the model: config.json says the widths, `layers` how many of its layers are made up, in bf16, with a LoRA of rank
64 on every linear layer. The command is told that 8 GB are free, as on such a machine, where parity of these models does not fit
and is said not to be measured. Needs as much disk as twice the largest of the models; each is removed before the next. Rows of
every weight are then held against base + scale * B A in fp64.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from plan_memory import make_tokenizer
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from hone.export.merge import BLOCK_BYTES
from hone.export.source import read_checkpoint, read_rows
from hone.export.write import Slot, write_tensors

LIMIT, SHARD, RANK, SCALE, ROWS = 8 * 10**9, 5 * 10**9, 64, 2.0, 2048


def slots_of(config_dir: Path, layers: int) -> list[Slot]:
    """Every weight of the model with `layers` layers."""
    config = AutoConfig.from_pretrained(config_dir)
    config.num_hidden_layers = layers
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    return [Slot(name, tuple(weight.shape), "BF16") for name, weight in module.state_dict().items()]


def make_base(config_dir: Path, layers: int, folder: Path) -> None:
    """Random numbers of a weight's usual size, block by block."""
    slots, draw = slots_of(config_dir, layers), torch.Generator().manual_seed(0)

    def blocks(slot: Slot) -> Iterator[torch.Tensor]:
        drawn = torch.randn(ROWS, *slot.shape[1:], generator=draw).mul_(0.02).bfloat16()
        for start in range(0, slot.shape[0], ROWS):
            yield drawn[: min(ROWS, slot.shape[0] - start)]

    folder.mkdir()
    write_tensors(folder, slots, blocks, shard_bytes=SHARD)
    said = json.loads((config_dir / "config.json").read_text()) | {"num_hidden_layers": layers, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(said))
    make_tokenizer().save_pretrained(folder)


def make_adapter(slots: list[Slot], base: Path, folder: Path) -> None:
    """PEFT's file, A and B in fp32."""
    folder.mkdir()
    draw, tensors, targets = torch.Generator().manual_seed(1), {}, set()
    for slot in slots:
        module = slot.name.removesuffix(".weight")
        if not module.endswith("_proj"):
            continue
        targets.add(module.rpartition(".")[2])
        for side, shape in (("A", (RANK, slot.shape[1])), ("B", (slot.shape[0], RANK))):
            tensors[f"base_model.model.{module}.lora_{side}.weight"] = torch.randn(shape, generator=draw) * 0.01
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": int(SCALE * RANK)}
    said |= {"base_model_name_or_path": str(base), "target_modules": sorted(targets), "init_lora_weights": True}
    (folder / "adapter_config.json").write_text(json.dumps(said))


def run_export(folder: Path) -> tuple[int, int, float]:
    """Peak resident bytes, those of them that are no file's pages (looked at 20 times a second), and seconds."""
    small = f"import sys; from hone import cli; from hone.export import trial; trial.available_bytes = lambda device: {LIMIT}; "
    command = [sys.executable, "-c", small + "sys.exit(cli.main(sys.argv[1:]))", "export", "model_name_or_path=base"]
    command += ["adapter_name_or_path=adapter", "finetuning_type=lora", "template=chatml", "export_dir=out"]
    began, anonymous = time.monotonic(), 0
    with (folder / "log.txt").open("w") as log:
        child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        while child.poll() is None:
            anonymous, _ = max(anonymous, _anonymous(child.pid)), time.sleep(0.05)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    if child.returncode:
        raise SystemExit((folder / "log.txt").read_text()[-2000:])
    return peak, anonymous, time.monotonic() - began


def _anonymous(pid: int) -> int:
    try:
        found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1]) * 1024 if found else 0


def largest_error(folder: Path) -> float:
    """Of the first and last rows of every weight: |merged - (base + scale B A)| in units of the last place; rounding is 0.5."""
    base, merged = read_checkpoint(folder / "base"), read_checkpoint(folder / "out")
    assert base.keys() == merged.keys()
    worst = 0.0
    with safe_open(folder / "adapter" / "adapter_model.safetensors", framework="pt") as adapter:
        names = set(adapter.keys())
        for name, tensor in base.items():
            for start, end in {(0, 2), (tensor.shape[0] - 2, tensor.shape[0])}:
                wanted = whole = read_rows(tensor, start, end).double()
                if (a := f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight") in names:
                    b = adapter.get_slice(a.replace("lora_A", "lora_B"))[start:end].double()
                    wanted = wanted + SCALE * b @ adapter.get_tensor(a).double()
                size = torch.maximum(wanted.abs(), whole.abs()).clamp_min(1e-30)  # where the sum is nearly nothing, fp32 has less
                place = torch.exp2(torch.floor(torch.log2(size)) - 7)
                got = read_rows(merged[name], start, end).double()
                worst = max(worst, ((got - wanted).abs() / place).max().item())
    return worst


def arithmetic(config_dir: Path) -> None:
    """What the bound is made of at the model's whole depth."""
    depth = AutoConfig.from_pretrained(config_dir).num_hidden_layers
    slots = slots_of(config_dir, depth)
    widest = max(slot.shape[1] for slot in slots if slot.name.endswith("_proj.weight"))
    row = max(4 * torch.Size(slot.shape[1:]).numel() for slot in slots)
    block = max(BLOCK_BYTES, row)
    print(
        f"{config_dir.name}: {depth} layers, {len(slots)} tensors, {sum(slot.num_bytes for slot in slots) / 1e9:.1f} GB in bf16"
    )
    print(
        f"  rows held: base, fp32, product, rounded: {(2 + 4 + 4 + 2) / 4 * block / 1e6:.0f} MB at most;"
        f" A of rank {RANK}: {2 * 4 * RANK * widest / 1e6:.0f} MB"
    )
    print(
        f"  every tensor's place and shape: {len(slots)} x about 2 kB = {len(slots) * 2e-3:.1f} MB, which alone grows with depth"
    )


def main(config_dir: str, *layers: str) -> None:
    """One line a depth, then the arithmetic of the whole."""
    for count in map(int, layers or ("2", "3")):
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
            folder = Path(name)
            slots = slots_of(Path(config_dir), count)
            size = sum(slot.num_bytes for slot in slots)
            if shutil.disk_usage(folder).free < 2.2 * size:
                raise SystemExit(f"{count} layers need {2.2 * size / 1e9:.0f} GB of disk")
            make_base(Path(config_dir), count, folder / "base")
            make_adapter(slots, folder / "base", folder / "adapter")
            peak, anonymous, seconds = run_export(folder)
            print(
                f"{Path(config_dir).name}, {count} layers, {size / 1e9:.2f} GB: peak {peak / 1e9:.2f} GB resident, of it "
                f"{anonymous / 1e9:.2f} GB not of files; {seconds:.0f} s; error {largest_error(folder):.3f} of the last place",
                flush=True,
            )
            print("  " + next(line for line in (folder / "log.txt").read_text().splitlines() if "parity" in line), flush=True)
    arithmetic(Path(config_dir))


if __name__ == "__main__":
    main(*sys.argv[1:])
