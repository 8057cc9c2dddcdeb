"""Do the ways of spreading a model over processes train the same? `python bench/engines.py [--only fsdp/lora] [--worlds 2 4]`.

Each cell trains a random Llama (2 layers, width 32) for 6 steps on uneven rows, on gloo, and is held against one process:
loss: largest difference of a step's loss; weights: of a weight at the end; resume: largest difference of the losses of steps 4 to
6, continued from the checkpoint at step 3 that another engine or number of processes wrote, or the same, to those of the
straight run; loads: whether plain transformers and peft read what was written, and compute what hone's evaluation says of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
CPU = {"device": "cpu", "pin_memory": False}


def zero(stage: int, **more: Any) -> dict[str, Any]:
    """DeepSpeed's settings of a stage; such cells are left out where it is not installed."""
    return {"deepspeed": {"zero_optimization": {"stage": stage, **more}}}


ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {"fsdp": "true"},
    "fsdp, kept": {"fsdp": "shard_grad_op"},
    "fsdp, offload": {"fsdp": "full_shard offload"},
    "fsdp, recomputed": {"fsdp": "true", "gradient_checkpointing": True},
    "fsdp, one loads": {"fsdp": "true", "fsdp_config": {"cpu_ram_efficient_loading": True}},
    "fsdp, shards": {"fsdp": "true", "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}},
    "fsdp, hybrid": {"fsdp": "hybrid_shard", "fsdp_config": {"forward_prefetch": True}},
    "tensor parallel": {"tensor_parallel_size": 2},
    "tensor, shards": {"tensor_parallel_size": 2, "fsdp": "true", "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}},
    "context": {"context_parallel_size": 2, "per_device_train_batch_size": 2},
    "context, fsdp": {"context_parallel_size": 2, "fsdp": "true", "gradient_checkpointing": True},
    "fsdp, async": {"fsdp": "true", "save_async": True},
    "zero 1": zero(1),
    "zero 2": zero(2),
    "zero 2, offload": zero(2, offload_optimizer=CPU),
    "zero 3": zero(3),
    "zero 3, recomputed": {**zero(3), "gradient_checkpointing": True},
    "zero 3, offload": zero(3, offload_optimizer=CPU, offload_param=CPU),
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"finetuning_type": "full"},
    "freeze": {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
    "lora": {"finetuning_type": "lora", "lora_target": "all"},
    "qlora": {"finetuning_type": "lora", "lora_target": "all", "quantization_bit": 4},
    "dora": {"finetuning_type": "lora", "lora_target": "all", "use_dora": True},
    "dpo": {"finetuning_type": "full", "stage": "dpo", "dataset": "pairs"},
    "reward": {"finetuning_type": "lora", "stage": "rm", "dataset": "pairs"},
}
PRECISIONS: dict[str, dict[str, Any]] = {"fp32": {"bf16": False}, "bf16": {"bf16": True}}
STEPS, HALF = 6, 3
FORKS = multiprocessing.get_context("fork")
"""The imports, most of a small run's time, are done once."""


@dataclass
class Cell:
    """One run. world: processes; source: the cell whose checkpoint at HALF it continues; folder: what it wrote."""

    engine: str
    method: str
    precision: str
    world: int
    folder: Path
    source: Cell | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def settings(self, base: dict[str, Any]) -> dict[str, Any]:
        """The run as a user would write it; a step is 4 rows on any number of processes."""
        spread = {} if self.world == 1 else ENGINES[self.engine]
        parts = self.world // spread.get("tensor_parallel_size", 1) // spread.get("context_parallel_size", 1)
        at_once = spread.get("per_device_train_batch_size", 1)
        batch = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4 // parts // at_once}
        return {
            **base, **batch, **METHODS[self.method], **PRECISIONS[self.precision], **spread, **self.more,
            "output_dir": str(self.folder),
        }  # fmt: skip


def make_base(place: Path) -> dict[str, Any]:
    """A tiny model, 23 uneven rows, and the settings that all runs share."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = ["<pad>", "<s>", "</s>", "<unk>", *map(chr, range(32, 127))]
    backend = Tokenizer(models.WordLevel({letter: number for number, letter in enumerate(letters)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(letters), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    rows = [{"instruction": f"say {n}", "input": "", "output": "abc " * (1 + n * n % 23)} for n in range(23)]
    (place / "rows.json").write_text(json.dumps(rows))
    pairs = [
        {"instruction": f"say {n}", "chosen": "abc " * (1 + n * n % 13), "rejected": "xyz " * (1 + n % 7)} for n in range(23)
    ]
    (place / "pairs.json").write_text(json.dumps(pairs))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    sets = {"rows": {"file_name": "rows.json"}, "pairs": {"file_name": "pairs.json", "ranking": True, "columns": columns}}
    (place / "dataset_info.json").write_text(json.dumps(sets))
    return {
        "model_name_or_path": str(place / "model"), "template": "default", "stage": "sft", "do_train": True, "dataset": "rows",
        "dataset_dir": str(place), "tokenized_path": str(place / "cache"), "cutoff_len": 128, "learning_rate": 0.01,
        "max_steps": STEPS, "logging_steps": 1, "save_strategy": "steps", "save_steps": HALF, "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "seed": 7, "fused_kernels": False,
    }  # fmt: skip


def work(files: list[str], ports: list[int]) -> None:
    """What each process does: one run after the other; a run that fails is told and ends all."""
    from hone.config import load, to_yaml
    from hone.training.prepare import prepare
    from hone.training.processes.launch import leave
    from hone.training.session import carry_out

    for file, port in zip(files, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        world = os.environ.get("WORLD_SIZE", "1")  # four that share weights by machines are two machines of two
        os.environ["LOCAL_WORLD_SIZE"] = "2" if world == "4" and "hybrid" in Path(file).read_text() else world
        print(f"== {file}", flush=True)
        run = load([file], "train")
        session = prepare(run, settings=to_yaml(run))
        assert not isinstance(session, str), session
        carry_out(session)
    leave(0)


def train(cells: list[Cell], base: dict[str, Any], place: Path) -> None:
    """Train cells of one number of processes, in the same processes one after the other."""
    files = []
    for number, cell in enumerate(cells):
        if cell.source:
            shutil.copytree(cell.source.folder / f"checkpoint-{HALF}", cell.folder / f"checkpoint-{HALF}")
        path = place / f"{cells[0].world}-{id(cells)}-{number}.json"
        path.write_text(json.dumps(cell.settings(base)))
        files.append(str(path))
    world, ports = cells[0].world, free_ports(len(files))
    group = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    processes, logs = [], []
    for rank in range(world):
        variables = {**group, "RANK": rank, "LOCAL_RANK": rank} if world > 1 else {}
        logs.append(place / f"rank{rank}.log")
        processes.append(FORKS.Process(target=start, args=(files, ports, logs[-1], variables)))
        processes[-1].start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("\n".join(log.read_text()[-6000:] for log in logs))


def together(cells: list[Cell]) -> list[list[Cell]]:
    """Cells that may be trained in the same processes: DeepSpeed keeps the first run's group of processes for good."""
    apart = [[cell] for cell in cells if "deepspeed" in ENGINES[cell.engine]]
    rest = [cell for cell in cells if "deepspeed" not in ENGINES[cell.engine]]
    return [*apart, *([rest] if rest else [])]


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on: one a run, as the last run's may still be closing."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def start(files: list[str], ports: list[int], log: Path, variables: dict[str, Any]) -> None:
    """One process, forked, of those that train."""
    os.environ.update({name: str(value) for name, value in variables.items()})
    with log.open("w") as opened:
        os.dup2(opened.fileno(), 1)
        os.dup2(opened.fileno(), 2)
    try:
        work(files, ports)
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)


def losses(folder: Path) -> dict[int, float]:
    """Loss by step."""
    records = map(json.loads, (folder / "trainer_log.jsonl").read_text().splitlines())
    return {record["current_steps"]: record["loss"] for record in records if "loss" in record}


def weights(folder: Path) -> dict[str, Any]:
    """The tensors of a folder's safetensors."""
    from safetensors.torch import load_file

    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def loads(cell: Cell, base: dict[str, Any]) -> bool:
    """Whether transformers and peft read the folder and find every weight that was written."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    mine = {name: tensor for name, tensor in weights(cell.folder).items() if not name.startswith("v_head.")}
    if METHODS[cell.method]["finetuning_type"] != "lora":
        model, found = AutoModelForCausalLM.from_pretrained(cell.folder, output_loading_info=True)
        state = model.state_dict()
        same = all(torch.equal(state[name], tensor) for name, tensor in mine.items())
        return same and not found["missing_keys"] and not found["unexpected_keys"]
    model = AutoModelForCausalLM.from_pretrained(base["model_name_or_path"], dtype=torch.float32)
    state = PeftModel.from_pretrained(model, str(cell.folder)).state_dict()
    plain = {name.replace(".default", ""): tensor for name, tensor in state.items()}
    named = {name if name in plain else f"{name}.weight": tensor for name, tensor in mine.items()}  # DoRA's has no .weight
    return all(torch.equal(plain[name].float(), tensor.float()) for name, tensor in named.items())


def largest(left: dict[Any, Any], right: dict[Any, Any], keys: Iterator[Any] | None = None) -> float:
    """The largest difference of numbers or tensors of the same names."""
    import torch

    names = list(keys or left)
    assert left.keys() == right.keys() or keys, sorted(left.keys() ^ right.keys())[:3]
    return max(
        float((torch.as_tensor(left[name]).double() - torch.as_tensor(right[name]).double()).abs().max()) for name in names
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a pattern of engine/method/precision, such as zero.*/lora")
    parser.add_argument("--worlds", nargs="*", type=int, default=[2])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        base = make_base(place)
        compare(asked, base, place)


def goes(engine: str, method: str) -> bool:
    """Whether hone takes the two together, with what is installed here."""
    here, adapted = HAS_DEEPSPEED or "deepspeed" not in ENGINES[engine], METHODS[method]["finetuning_type"] == "lora"
    refused = ("tensor" in engine and adapted) or (method == "qlora" and engine == "fsdp, one loads")
    refused |= "context" in engine and method == "reward"
    return here and not refused


def compare(asked: argparse.Namespace, base: dict[str, Any], place: Path) -> None:
    """Train every cell and print a line of each."""
    every = ((engine, method, precision) for engine in ENGINES for method in METHODS for precision in PRECISIONS)
    wanted = [cell for cell in every if re.search(asked.only, "/".join(cell)) and goes(*cell[:2])]
    alone = {
        (method, precision): Cell("one", method, precision, 1, place / f"one-{method}-{precision}")
        for _, method, precision in wanted
    }
    train(list(alone.values()), base, place)
    print(f"{'engine':<18} {'method':<7} {'type':<5} {'world':<5} {'loss':<8} {'weights':<8} {'resume':<8} loads", flush=True)
    for world in asked.worlds:
        cells, resumed = [], []
        for engine, method, precision in wanted:
            name = f"{engine}-{method}-{precision}-{world}".replace(", ", "-")
            one = alone[method, precision]
            cells.append(Cell(engine, method, precision, world, place / name))
            resumed.append(Cell(engine, method, precision, world, place / f"{name}-on", source=one))
            resumed.append(Cell(engine, method, precision, world, place / f"{name}-same", source=cells[-1]))
            resumed.append(Cell(engine, method, precision, 1, place / f"{name}-back", source=cells[-1]))
        for some in [*together(cells), *together([cell for cell in resumed if cell.world == world])]:
            train(some, base, place)
        train([cell for cell in resumed if cell.world == 1], base, place)
        for number, cell in enumerate(cells):
            one = alone[cell.method, cell.precision]
            straight, late = losses(one.folder), range(HALF + 1, STEPS + 1)
            mine, (on, *after) = losses(cell.folder), [losses(other.folder) for other in resumed[3 * number : 3 * number + 3]]
            resume = max(largest(on, straight, late), *(largest(other, mine, late) for other in after))
            figures = (largest(mine, straight), largest(weights(cell.folder), weights(one.folder)), resume)
            told = " ".join(f"{figure:<8.1e}" for figure in figures)
            plain = "yes" if loads(cell, base) else "NO"
            print(f"{cell.engine:<18} {cell.method:<7} {cell.precision:<5} {world:<5} {told} {plain}", flush=True)


if __name__ == "__main__":
    main()
