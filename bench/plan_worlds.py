"""The plan's memory beside what each of several processes holds: `python bench/plan_worlds.py [word ...]`, on a CPU, over gloo.

Only cases whose names hold every word given are run; ZeRO's where DeepSpeed is installed. Knows no formula: each case is a run of
three steps in two or four processes, in each of which torch's allocator counts what it gives from the start on; weights that lie
in a file are added. The ratio is the plan over the process that held more.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from engines import free_ports
from plan_memory import make_tokenizer
from plan_tensors import METHODS, PARTS, TYPES, make_inputs
from torch.distributed.fsdp import FSDPModule
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

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
    "fsdp-ahead": {"fsdp": "full_shard", "fsdp_config": {"forward_prefetch": True}},
    "zero1": zero(1),
    "zero2": zero(2),
    "zero3": zero(3),
    "zero2-offload": zero(2, offload_optimizer=CPU),
}
SHAPES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "vocab_size": 4000},
    "wide": {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3, "vocab_size": 2000},
    "deep": {
        "hidden_size": 128,
        "intermediate_size": 448,
        "num_hidden_layers": 14,
        "vocab_size": 6000,
        "tie_word_embeddings": True,
    },
}
KINDS = {"recomputed": {"gradient_checkpointing": True}, "kept": {"gradient_checkpointing": False}}
FORKS = multiprocessing.get_context("fork")


def mapped() -> int:
    """Bytes of tensors that lie in a file that is mapped, as weights do that were read from one: no allocator knows of them."""
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    files = [[int(end, 16) for end in line[0].split("-")] for line in lines if len(line) > 5 and line[5].startswith("/")]
    found = {}
    for one in gc.get_objects():
        if isinstance(one, torch.Tensor):
            local = getattr(one, "_local_tensor", one)
            if local.device.type == "cpu" and local.layout == torch.strided:
                storage = local.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return sum(size for place, size in found.items() if any(first <= place < last for first, last in files))


def count_everything() -> None:
    """From now on torch's allocator counts in every thread: gloo's give back what no profiler of this thread is told of."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    ctypes.c_bool.in_dll(library, "FLAGS_caffe2_report_cpu_memory_usage").value = True


def counted(seen: profile) -> tuple[int, int]:
    """What the allocator had given before, and at most."""
    found, left = [], list(seen.profiler.kineto_results.experimental_event_tree())
    while left:
        one = left.pop()
        left += one.children
        if one.name == "[memory]":
            found.append((one.start_time_ns, one.extra_fields.alloc_size, one.extra_fields.total_allocated))
    _, size, total = min(found)
    return total - size, max(total for _, _, total in found)


def work(rank: int, world: int, port: int, file: Path) -> None:
    """One process: writes RANK.json beside `file`, what the plan said by part and what was held."""
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(value) for name, value in (variables | {"RANK": rank, "LOCAL_RANK": rank}).items()})
    with (file.parent / f"{rank}.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        count_everything()
        run = load([str(file)], "train")
        made = prepare.prepare(run, settings=to_yaml(run))
        assert not isinstance(made, str), made
        for inner in made.work.policy.module.modules():
            if isinstance(inner, FSDPModule):
                inner.reshard()  # the profiler is not told when what was gathered before it began is let go
        gc.collect()
        files = mapped()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            session.carry_out(made)
        said = {part: getattr(made.plan.memory, part) for part in PARTS}
        before, peak = counted(seen)
        found = {"said": said, "before": files + before, "peak": files + peak}
        (file.parent / f"{rank}.json").write_text(json.dumps(found))
        leave(0)
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)


def measure(folder: Path, world: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What each process wrote."""
    settings = {
        "template": "chatml", "stage": "sft", "do_train": True, "dataset": "rows",
        "dataset_dir": ".", "tokenized_path": "cache", "cutoff_len": 1024, "output_dir": "out", "overwrite_output_dir": True,
        "max_steps": 3, "per_device_train_batch_size": 2, "save_strategy": "no",
        "report_to": "none", "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-9,
    } | settings  # fmt: skip
    file, (port,) = folder / "run.json", free_ports(1)
    file.write_text(json.dumps(settings))
    processes = [FORKS.Process(target=work, args=(rank, world, port, file)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("\n".join((folder / f"{rank}.log").read_text()[-3000:] for rank in range(world)))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


def cases() -> Iterator[tuple[str, int, dict[str, Any]]]:
    """A name, the processes and the settings: every engine with each method and type, two times over; all else goes around."""
    around = itertools.product(("lora", "full"), TYPES, range(2))
    for (number, engine), (method, dtype, second) in itertools.product(enumerate(ENGINES), list(around)):
        turn = number + 2 * ("lora", "full").index(method) + list(TYPES).index(dtype)
        shape, kind = list(SHAPES)[(turn + second) % 3], list(KINDS)[(turn // 2 + second) % 2]
        several, world = 1 + (turn + second) % 2, 4 if turn % 4 == 3 and second else 2
        name = f"{engine} {method} {dtype} {shape} {kind} x{several} {world}p"
        where = {"model_name_or_path": shape, "gradient_accumulation_steps": several}
        yield name, world, {**where, **METHODS[method], **TYPES[dtype], **KINDS[kind], **ENGINES[engine]}


def make_models(folder: Path) -> None:
    """A Llama of each shape, and rows of about 230 tokens, all alike."""
    make_inputs(folder, [], [])
    tokenizer = make_tokenizer()
    for name, shape in SHAPES.items():
        heads = {
            "num_attention_heads": shape["hidden_size"] // 64,
            "num_key_value_heads": shape["hidden_size"] // 128,
            "head_dim": 64,
        }
        config = AutoConfig.for_model("llama", **{"tie_word_embeddings": False, **shape, **heads})
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def main(parts: list[str]) -> None:
    """One line a case: MiB by the plan and of the process that held more, their ratio, what was there before, and the parts."""
    print(f"{'case':<48}{'plan':>8}{'measured':>10}{'ratio':>8}{'before':>9}  parts (MiB)")
    off = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        make_models(folder)
        for case, world, settings in cases():
            if not all(part in case.split() for part in parts) or ("zero" in case and not importlib.util.find_spec("deepspeed")):
                continue
            found = max(measure(folder, world, settings), key=lambda one: one["peak"])
            said, peak = sum(found["said"].values()), found["peak"]
            off.append(said / peak)
            by_part = " ".join(f"{part} {size / 2**20:.1f}" for part, size in found["said"].items())
            print(f"{case:<48}{said / 2**20:>8.1f}{peak / 2**20:>10.1f}{off[-1]:>8.3f}{found['before'] / 2**20:>9.1f}  {by_part}",
                  flush=True)  # fmt: skip
    within = sum(abs(ratio - 1) <= 0.05 for ratio in off)
    print(f"{len(off)} cases: {min(off):.3f} to {max(off):.3f}, {within} within 5 %")


if __name__ == "__main__":
    main(sys.argv[1:])
