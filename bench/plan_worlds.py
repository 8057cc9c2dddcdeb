"""The plan's memory beside what each of two processes holds: `python bench/plan_worlds.py [word ...]`, on a CPU, over gloo.

Only cases whose names hold every word given are run; ZeRO's where DeepSpeed is installed. Knows no formula: each case is a run of
three steps in two processes, in each of which the tensors that are there before the first step are summed up, and what torch's
allocator gave since is added to them. The ratio is the plan over the process that held more.
"""

from __future__ import annotations

import gc
import importlib.util
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from engines import free_ports
from plan_tensors import METHODS, PARTS, TYPES, make_inputs, most
from torch.distributed.fsdp import FSDPModule
from torch.profiler import ProfilerActivity, profile

from hone.config import load, to_yaml
from hone.training import prepare, session
from hone.training.processes.launch import leave

CPU = {"device": "cpu", "pin_memory": False}


def zero(stage: int, **more: Any) -> dict[str, Any]:
    """DeepSpeed's settings of a stage, with buckets that are small beside these models, as they are beside real ones."""
    sizes = {"reduce_bucket_size": 100_000, "stage3_max_live_parameters": 1_000_000, "stage3_prefetch_bucket_size": 100_000}
    return {"deepspeed": {"zero_optimization": {"stage": stage, **sizes, **more}}}


ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {"fsdp": "true"},
    "fsdp-kept": {"fsdp": "shard_grad_op"},
    "zero1": zero(1),
    "zero2": zero(2),
    "zero3": zero(3),
    "zero2-offload": zero(2, offload_optimizer=CPU),
}
WORLD = 2
FORKS = multiprocessing.get_context("fork")


def resident() -> int:
    """Bytes of all tensors that are there, each storage once."""
    found = {}
    for one in gc.get_objects():
        if isinstance(one, torch.Tensor):
            local = getattr(one, "_local_tensor", one)
            if local.device.type == "cpu" and local.layout == torch.strided:
                storage = local.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def work(rank: int, port: int, file: Path) -> None:
    """One process: writes RANK.json beside `file`, what the plan said by part and what was held."""
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": WORLD, "LOCAL_WORLD_SIZE": WORLD}
    os.environ.update({name: str(value) for name, value in (variables | {"RANK": rank, "LOCAL_RANK": rank}).items()})
    with (file.parent / f"{rank}.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        run = load([str(file)], "train")
        made = prepare.prepare(run, settings=to_yaml(run))
        assert not isinstance(made, str), made
        for inner in made.work.policy.module.modules():
            if isinstance(inner, FSDPModule):
                inner.reshard()  # the profiler is not told when what was gathered before it began is let go
        gc.collect()
        before = resident()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            session.carry_out(made)
        said = {part: getattr(made.plan.memory, part) for part in PARTS}
        found = {"said": said, "before": before, "peak": before + most(seen)}
        (file.parent / f"{rank}.json").write_text(json.dumps(found))
        leave(0)
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)


def measure(folder: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What each process wrote."""
    settings = {
        "model_name_or_path": "llama-small", "template": "chatml", "stage": "sft", "do_train": True, "dataset": "rows",
        "dataset_dir": ".", "tokenized_path": "cache", "cutoff_len": 1024, "output_dir": "out", "overwrite_output_dir": True,
        "max_steps": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "save_strategy": "no",
        "report_to": "none", "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-9, "gradient_checkpointing": True,
    } | settings  # fmt: skip
    file, (port,) = folder / "run.json", free_ports(1)
    file.write_text(json.dumps(settings))
    processes = [FORKS.Process(target=work, args=(rank, port, file)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("\n".join((folder / f"{rank}.log").read_text()[-3000:] for rank in range(WORLD)))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


def main(parts: list[str]) -> None:
    """One line a case: MiB by the plan and of the process that held more, their ratio, what was there before, and the parts."""
    print(f"{'case':<28}{'plan':>8}{'measured':>10}{'ratio':>8}{'before':>9}  parts (MiB)")
    engines = [name for name in ENGINES if "zero" not in name or importlib.util.find_spec("deepspeed")]
    off = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        make_inputs(folder, ["llama"], ["small"])
        for engine, method, dtype in itertools.product(engines, ("lora", "full"), TYPES):
            case = f"{engine} {method} {dtype}"
            if not all(part in case.split() for part in parts):
                continue
            found = max(measure(folder, {**METHODS[method], **TYPES[dtype], **ENGINES[engine]}), key=lambda one: one["peak"])
            said, peak = sum(found["said"].values()), found["peak"]
            off.append(said / peak)
            by_part = " ".join(f"{part} {size / 2**20:.1f}" for part, size in found["said"].items())
            print(f"{case:<28}{said / 2**20:>8.1f}{peak / 2**20:>10.1f}{off[-1]:>8.3f}{found['before'] / 2**20:>9.1f}  {by_part}",
                  flush=True)  # fmt: skip
    print(f"{len(off)} cases: {min(off):.3f} to {max(off):.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
