"""What a run over several hosts does when one is missing, wrong, killed or cut off: `python bench/hosts.py [--hosts 3]`.

Hosts are network namespaces of this machine (root, Linux, iproute2) with addresses of their own on a bridge; processes are tasks
with SLURM's variables. A tiny random Llama on gloo. Prints the largest difference of a loss from one process's, and a table of
faults: seconds until every process that was left had ended, what was said, whether the same command then finished the run, and
how many steps were taken twice. --only takes names of faults, and "losses". It stands on the harness of the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests import worlds
from tests.hosts import Host, hosts, unavailable
from tests.runs import losses_of, make_rows

from hone.config.knobs import knobs
from hone.training.processes.launch import _children

STEPS, PATIENCE = 40, 20
"""Steps of a run, and its ddp_timeout, watchdog_timeout and join_timeout in seconds."""


@dataclass
class Found:
    """Of one trial. seconds: until all that were left had ended; said: the sentence that names the fault; repeated: steps."""

    seconds: float
    said: str
    finished: bool
    repeated: int


class Bench:
    """A run's files, and the hosts it runs on."""

    def __init__(self, root: Path, machines: list[Host]):
        self.root, self.machines, self.number = root, machines, 0
        self.settings = make_run(root)

    def write(self, **more: Any) -> Path:
        """A run of its own folder."""
        self.number += 1
        settings = {**self.settings, "output_dir": str(self.root / f"out{self.number}"), **more}
        path = self.root / f"run{self.number}.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    def start(self, file: Path, each: int = 1, *, leave_out: tuple[int, ...] = (), **variables: str) -> list[worlds.Process]:
        """A task with SLURM's variables for every rank, `each` a host."""
        total, started = each * len(self.machines), []
        for rank in range(total):
            host, local = self.machines[rank // each], rank % each
            said = {"JOB_ID": 1, "STEP_ID": 0, "NTASKS": total, "PROCID": rank, "LOCALID": local, "NNODES": len(self.machines)}
            said |= {"NODEID": rank // each, "JOB_NODELIST": ",".join(host.address for host in self.machines)}
            task = {f"SLURM_{name}": str(value) for name, value in said.items()} | {"FORCE_TORCHRUN": ""} | variables
            log_file = self.root / f"run{self.number}.rank{rank}.{time.monotonic_ns()}.log"
            if rank not in leave_out:
                started.append(worlds.start_training([str(file)], variables=task, log_file=log_file, host=host))
        return started


def make_run(root: Path) -> dict[str, Any]:
    """A tiny model and 60 rows, and the settings of a run over them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    rows = make_rows(60)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator([json.dumps(rows)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|im_end|>")
    tokenizer.save_pretrained(root / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(root / "model")
    (root / "rows.json").write_text(json.dumps(rows))
    (root / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
    return {
        "model_name_or_path": str(root / "model"), "stage": "sft", "template": "chatml", "dataset": "rows",
        "dataset_dir": str(root), "tokenized_path": str(root / "cache"), "cutoff_len": 256, "lora_rank": 4,
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "learning_rate": 0.01, "max_steps": STEPS,
        "logging_steps": 1, "save_strategy": "steps", "save_steps": 5, "save_total_limit": 3, "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "ddp_timeout": PATIENCE, "join_timeout": PATIENCE,
    } | ({"watchdog_timeout": PATIENCE} if "watchdog_timeout" in knobs() else {})  # fmt: skip


def until_ended(processes: list[worlds.Process], since: float) -> tuple[float, str]:
    """Seconds from `since` until all have ended, and all they said."""
    for process in processes:
        process.end(PATIENCE * 8)
    return time.monotonic() - since, "\n".join(process.said for process in processes)


def first_line(said: str, *words: str) -> str:
    """The first line that has one of `words`."""
    return next((line.strip() for line in said.splitlines() if any(word in line for word in words)), "NOT TOLD")


def same_losses(bench: Bench) -> None:
    """A line a layout: the largest difference of a step's loss from one process's."""
    print("| hosts x processes | steps | largest difference of a loss from one process |\n|---|---|---|")
    total = len(bench.machines) * 2
    alone = bench.write(gradient_accumulation_steps=total)
    worlds.train(alone, 1)
    expected = losses_of(bench.root / f"out{bench.number}")
    for each in (1, 2):
        file = bench.write(gradient_accumulation_steps=2 // each)
        _, said = until_ended(bench.start(file, each), time.monotonic())
        found = losses_of(bench.root / f"out{bench.number}")
        assert len(found) == len(expected), said
        worst = max(abs(one - other) for one, other in zip(found, expected, strict=True))
        print(f"| {len(bench.machines)} x {each} | {len(found)} | {worst:.1e} |", flush=True)


def missing(bench: Bench) -> Found:
    """One process never comes."""
    started = time.monotonic()
    seconds, said = until_ended(bench.start(bench.write(), leave_out=(1,)), started)
    return Found(seconds, first_line(said, "did not come"), True, 0)


def port_taken(bench: Bench) -> Found:
    """Somebody listens at MASTER_PORT of the first host."""
    script = "import socket,time; s=socket.create_server(('0.0.0.0',29500)); time.sleep(300)"
    holder = subprocess.Popen(["ip", "netns", "exec", bench.machines[0].name, sys.executable, "-c", script])
    time.sleep(1)
    started = time.monotonic()
    seconds, said = until_ended(bench.start(bench.write())[:1], started)
    holder.kill()
    holder.wait()
    return Found(seconds, first_line(said, "is in use by"), True, 0)


def unreachable(bench: Bench) -> Found:
    """The last host is cut off before the start."""
    bench.machines[-1].cut_off()
    started = time.monotonic()
    seconds, said = until_ended(bench.start(bench.write()), started)
    bench.machines[-1].put_back()
    lines = [first_line(said, "did not come"), first_line(said, "does not answer", "cannot be reached")]
    return Found(seconds, " / ".join(lines), True, 0)


def apart(bench: Bench) -> Found:
    """The last two hosts reach the first one and not each other."""
    second, third = bench.machines[-2:]
    ways = [(second, third), (third, second)]
    for host, other in ways:
        subprocess.run(["ip", "-n", host.name, "route", "add", "blackhole", f"{other.address}/32"], check=True)
    started = time.monotonic()
    seconds, said = until_ended(bench.start(bench.write()), started)
    for host, other in ways:
        subprocess.run(["ip", "-n", host.name, "route", "del", "blackhole", f"{other.address}/32"], check=True)
    return Found(seconds, first_line(said, "did not end within", "failed for"), True, 0)


def in_mid_run(bench: Bench, harm: Callable[[Bench, list[worlds.Process]], list[worlds.Process]], step: int) -> Found:
    """`harm` comes at `step` and gives those that are left; then the same command is started again on all hosts."""
    file = bench.write()
    out = bench.root / f"out{bench.number}"
    processes = bench.start(file, 2)
    while steps_done(out) < step:
        time.sleep(0.05)
        assert all(process.running.is_alive() for process in processes), processes[0].said
    since, left = time.monotonic(), harm(bench, processes)
    done = steps_done(out)
    seconds, said = until_ended(left, since)
    for process in processes:
        process.end(1)
    for host in bench.machines:
        host.put_back()
    _, again = until_ended(bench.start(file, 2), time.monotonic())
    begun = next((int(line.split("at step ")[1].split()[0]) for line in again.splitlines() if "continuing " in line), 0)
    finished = (out / "train_results.json").is_file() and f"step {STEPS}/{STEPS}" in again
    named = first_line(said, "no sign of life", "has died", "has gone", "cannot be reached", "no process goes on")
    return Found(seconds, named, finished, max(0, done - begun))


def steps_done(out: Path) -> int:
    """Steps that the log of a run tells of."""
    file = out / "trainer_log.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0


def started_again(bench: Bench, step: int, **rendezvous: str) -> Found:
    """A process of the last host is killed at `step`; torchrun, which each host's command is, starts all again (MAX_RESTARTS)."""
    file, first = bench.write(), bench.machines[0].address
    out, launchers = bench.root / f"out{bench.number}", list[worlds.Process]()
    for number, host in enumerate(bench.machines):
        said = {
            "NNODES": str(len(bench.machines)),
            "NPROC_PER_NODE": "2",
            "MASTER_ADDR": first,
            "MAX_RESTARTS": "2",
            **rendezvous,
        }
        said |= {} if rendezvous else {"NODE_RANK": str(number)}
        log_file = bench.root / f"run{bench.number}.host{number}.log"
        launchers.append(worlds.start_training([str(file)], variables=said, log_file=log_file, host=host))
    while steps_done(out) < step:
        time.sleep(0.05)
        assert all(launcher.running.is_alive() for launcher in launchers), launchers[0].said
    since, done = time.monotonic(), steps_done(out)
    os.kill(_children(launchers[-1].running.pid)[-1], signal.SIGKILL)
    seconds, said = until_ended(launchers, since)
    begun = next((int(line.split("at step ")[1].split()[0]) for line in said.splitlines() if "continuing " in line), 0)
    finished = (out / "train_results.json").is_file() and f"step {STEPS}/{STEPS}" in said
    return Found(
        seconds, first_line(said, "has died", "has gone", "no sign of life", "was ended by"), finished, max(0, done - begun)
    )


def killed(bench: Bench, processes: list[worlds.Process]) -> list[worlds.Process]:
    """The last host's processes are killed at once."""
    del bench
    for process in processes[-2:]:
        os.kill(process.running.pid, signal.SIGKILL)
    return processes[:-2]


def cut_off(bench: Bench, processes: list[worlds.Process]) -> list[worlds.Process]:
    """The last host's cable is taken out."""
    bench.machines[-1].cut_off()
    return processes


def stopped(bench: Bench, processes: list[worlds.Process]) -> list[worlds.Process]:
    """A process of the last host stands still."""
    del bench
    os.kill(processes[-1].running.pid, signal.SIGSTOP)
    return processes[:-1]


FAULTS: dict[str, Callable[[Bench, int], Found]] = {
    "a process never comes": lambda bench, _: missing(bench),
    "port in use": lambda bench, _: port_taken(bench),
    "a host cut off before the start": lambda bench, _: unreachable(bench),
    "two hosts that reach the first and not each other": lambda bench, _: apart(bench),
    "a host killed in mid-run": lambda bench, trial: in_mid_run(bench, killed, 7 + 6 * trial),
    "a host cut off in mid-run": lambda bench, trial: in_mid_run(bench, cut_off, 8 + 6 * trial),
    "a process stopped in mid-run": lambda bench, trial: in_mid_run(bench, stopped, 9 + 6 * trial),
    "a process killed, MAX_RESTARTS, NODE_RANK": lambda bench, trial: started_again(bench, 7 + 6 * trial),
    "a process killed, MAX_RESTARTS, RDZV_ID": lambda bench, trial: started_again(bench, 8 + 6 * trial, RDZV_ID=f"trial{trial}"),
}


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=["losses", *FAULTS])
    asked = parser.parse_args()
    if reason := unavailable():
        sys.exit(reason)
    print(f"{socket.gethostname()}: {asked.hosts} hosts, timeouts of {PATIENCE} s, load {os.getloadavg()[0]:.0f}", flush=True)
    with tempfile.TemporaryDirectory() as folder, hosts(asked.hosts) as machines:
        bench = Bench(Path(folder), machines)
        if "losses" in asked.only:
            same_losses(bench)
        print("\n| fault | times | runs lost | steps repeated | seconds until all had ended | what was said |")
        print("|---|---|---|---|---|---|", flush=True)
        for name in [name for name in FAULTS if name in asked.only]:
            found = [FAULTS[name](bench, trial) for trial in range(asked.times)]
            lost, most = sum(not one.finished for one in found), max(one.repeated for one in found)
            told = sorted(one.seconds for one in found)
            print(
                f"| {name} | {len(found)} | {lost} | at most {most} | {told[0]:.0f} to {told[-1]:.0f} | {found[0].said} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
