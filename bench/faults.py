"""Faults: what is lost where a run is killed, signalled, starved of disk or memory, or loses one of its processes.

    python bench/faults.py [--kills 200] [--others 5] [--only kill-1 stuck ...]

Small real runs of `hone train`, forked from a process that has imported everything, on one and on two processes (gloo). After
each fault the same command goes on. A finished checkpoint is one that was whole before the fault; a run is lost where the same
command does not go on from the newest of them. Ends with 1 where either was lost, and keeps a copy of the run, its logs and how
its processes ended. Mounting a small disk needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.distributed import TCPStore
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hone.commands import train, train_run  # noqa: F401 (the run's imports, before the forks)
from hone.config import load, to_yaml
from hone.models.policy import Policy
from hone.training.checkpoints import checkpoint
from hone.training.checkpoints.resume import choose_start
from hone.training.prepare import prepare
from hone.training.processes.pulse import PULSE
from hone.training.processes.watch import Sign, Watch
from hone.training.session import carry_out

LONGEST, AFTER_A_KILL = 600, 15
"""Seconds that a run may take, far more than any does; and that one process of two may outlive the other."""
KEPT = 3
"""Checkpoints that a run keeps."""


@dataclass
class Row:
    """Of one fault: how often it was injected, and what was lost by it. repeated: steps taken again, each time."""

    injected: int = 0
    runs_lost: int = 0
    checkpoints_lost: int = 0
    repeated: list[int] = field(default_factory=list)

    def line(self, name: str) -> str:
        """As a row of a table."""
        mean, most = (statistics.fmean(self.repeated), max(self.repeated)) if self.repeated else (0, 0)
        return f"| {name} | {self.injected} | {self.runs_lost} | {self.checkpoints_lost} | {mean:.1f} / {most} |"


class Ward:
    """Runs of one setting in a folder of their own; a new folder when one is finished."""

    def __init__(self, inputs: Path, world: int, **changes: Any):
        self.inputs, self.world, self.number = inputs, world, 0
        self.changes = changes
        self.anew()

    def anew(self, output: Path | None = None) -> None:
        """The next run starts from nothing."""
        self.number += 1
        self.folder = output or Path(tempfile.mkdtemp(dir=self.inputs, prefix="run-")) / "out"
        settings = {
            "model_name_or_path": str(self.inputs / "model"), "stage": "sft", "do_train": True, "finetuning_type": "full",
            "dataset": "rows", "dataset_dir": str(self.inputs), "tokenized_path": str(self.inputs / "cache"), "cutoff_len": 64,
            "output_dir": str(self.folder), "per_device_train_batch_size": 4 // self.world, "gradient_accumulation_steps": 1,
            "learning_rate": 0.001, "max_steps": 100_000, "logging_steps": 1, "save_steps": 3, "save_total_limit": KEPT,
            "report_to": "none", "use_cpu": True, "disable_tqdm": True, "gradient_checkpointing": False, "watchdog_timeout": 3,
        }  # fmt: skip
        self.file = self.folder.with_name("run.yaml")
        self.file.write_text(yaml.safe_dump(settings | self.changes))

    def start(self, fault: Callable[[int], None] | None = None) -> list[int]:
        """Fork the run's processes; `fault` is called in each, with its rank, before it trains."""
        self.forget()
        port, children = _free_port(), []
        for rank in range(self.world):
            child = os.fork()
            if not child:
                _run(self.file, rank, self.world, port, fault)
            children.append(child)
        return children

    def forget(self) -> None:
        """What the last run said goes before the next one is forked: it must not be taken for the next one's."""
        for path in self.folder.parent.glob("rank*.log"):
            path.unlink()

    def keep(self, why: str) -> None:
        """Keep a copy of a run that was lost, and say why it counts as that."""
        kept = Path(tempfile.mkdtemp(prefix="hone-lost-"))
        shutil.copytree(self.folder.parent, kept / "run", symlinks=True)
        (kept / "why.txt").write_text(why + "\n")
        print(f"lost: {why}; kept in {kept}\n{self.log()[-1500:]}", file=sys.stderr, flush=True)

    def log(self) -> str:
        """What the last run said."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.parent.glob("rank*.log")))

    def whole(self) -> list[int]:
        """Steps of the complete checkpoints."""
        return [checkpoint.step_of(path) for path in checkpoint.checkpoints(self.folder) if not checkpoint.problem_of(path)]

    def done(self) -> int:
        """The last step that the last run said it took; 0 where it came to none."""
        return max((int(number) for number in re.findall(r"step (\d+)/", self.log())), default=0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run(
    file: Path, rank: int, world: int, port: int, fault: Callable[[int], None] | None, work: Callable[[], object] | None = None
) -> None:
    if world > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ.update({name: str(value) for name, value in place.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    with file.with_name(f"rank{rank}.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    code = 1
    try:
        if fault:
            fault(rank)
        code = 0 if work and work() else train.main([str(file)])
    except BaseException as problem:
        print(f"{type(problem).__name__}: {problem}", file=sys.stderr, flush=True)
    os._exit(code)


def wait(children: list[int], seconds: float = LONGEST) -> None:
    """Until all have ended; those that have not after a while are killed, as torchrun does."""
    end, left = time.monotonic() + seconds, list(children)
    while left:
        left = [child for child in left if os.waitpid(child, os.WNOHANG)[0] == 0]
        for child in left if time.monotonic() > end else []:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def stepping(ward: Ward, children: list[int], beyond: int) -> bool:
    """Wait until a step after `beyond` is taken; False where the run ended before."""
    end = time.monotonic() + LONGEST
    while ward.done() <= beyond and time.monotonic() < end:
        if any(_gone(child) for child in children):
            return False
        time.sleep(0.01)
    return True


def _gone(child: int) -> bool:
    status = Path(f"/proc/{child}/stat")
    return not status.is_file() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def judge(ward: Ward, row: Row, before: list[int]) -> None:
    """After a fault: what was whole is still there, unless save_total_limit let it go for newer ones."""
    after, done = ward.whole(), ward.done()
    missing = [step for step in before if step not in after]
    row.injected += 1
    row.checkpoints_lost += len([step for step in missing if len(after) < KEPT or step > min(after)])
    row.repeated.append(max(0, done - max(after, default=0)))


def goes_on(ward: Ward, row: Row, after: int) -> list[int]:
    """Start the same command again and see it go on from step `after`; its processes."""
    children = ward.start()
    alive = stepping(ward, children, after) if after else True
    if not alive or (after and f"checkpoint-{after} at step {after}" not in ward.log()):
        row.runs_lost += 1
        ward.keep(f"it did not go on from checkpoint-{after}; ended: {_statuses(children)}")
    return children


def _statuses(children: list[int]) -> list[str]:
    """How those that have ended did: an exit code, or a signal."""
    ended = [os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT) for child in children if _gone(child)]
    return [f"{'exit' if end.si_code == os.CLD_EXITED else 'signal'} {end.si_status}" for end in ended if end]


def kills(ward: Ward, number: int, chance: random.Random) -> Row:
    """SIGKILL at random moments from the start of the process on; of several processes one or all."""
    row = Row()
    while row.injected < number:
        newest = max(ward.whole(), default=0)
        children = ward.start()
        if chance.random() < 0.7:
            stepping(ward, children, newest + chance.randrange(6))
        else:
            time.sleep(chance.uniform(0, 3))
        struck(ward, row, children, newest, children if chance.random() < 0.5 else [chance.choice(children)])
    return row


def kills_at_work(ward: Ward, number: int, chance: random.Random) -> Row:
    """SIGKILL in steps and, every second one, in a save: of runs forked when all but reading the checkpoint is done."""
    row, run = Row(), load([str(ward.file)], "train")
    session = prepare(run, settings=to_yaml(run))
    assert not isinstance(session, str), session
    while row.injected < number:
        newest, steps = max(ward.whole(), default=0), chance.randrange(8)
        ward.forget()
        child = os.fork()
        if not child:
            _run(ward.file, 0, 1, 0, None, lambda: carry_out(replace(session, start=choose_start(session.run.train))))
        stepping(ward, [child], newest + steps)
        end = time.monotonic() + 5
        while row.injected % 2 and not list(ward.folder.glob(".checkpoint-*")) and time.monotonic() < end:
            time.sleep(0.0003)
        time.sleep(chance.uniform(0, 0.03))
        struck(ward, row, [child], newest, [child])
    return row


def struck(ward: Ward, row: Row, children: list[int], newest: int, victims: list[int]) -> None:
    """Kill some of a run's processes, and count what it cost. newest: the checkpoint that the run should have gone on from."""
    before = ward.whole()
    ended = [child for child in children if _gone(child)]
    if ended or (newest and ward.done() and f"at step {newest} " not in ward.log()):
        row.runs_lost += 1
        ward.keep(f"from checkpoint-{newest} on, {before} whole; ended by themselves: {_statuses(ended)}")
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    wait(children, AFTER_A_KILL)
    judge(ward, row, before)
    if row.injected % 10 == 0:
        print(row.line("so far"), file=sys.stderr, flush=True)


def signalled(ward: Ward, number: int, chance: random.Random) -> Row:
    """SIGTERM while a run takes steps: it saves and ends."""
    row = Row()
    for _ in range(number):
        newest = max(ward.whole(), default=0)
        children = goes_on(ward, row, newest)
        stepping(ward, children, newest)
        time.sleep(chance.uniform(0, 0.3))
        before = ward.whole()
        for child in children:
            os.kill(child, signal.SIGTERM)
        wait(children)
        judge(ward, row, before)
    return row


def patched(ward: Ward, number: int, fault: Callable[[int], None], *, ends: bool) -> Row:
    """A fault inside the run. ends: it ends the run, which goes on without it; else the run must get over it."""
    row = Row()
    for _ in range(number):
        newest = max(ward.whole(), default=0)
        children = ward.start(fault)
        if not ends:
            stepping(ward, children, newest + 6)
            for child in children:
                os.kill(child, signal.SIGTERM)
        before = ward.whole()
        wait(children)
        judge(ward, row, before)
        if ward.done() <= newest:
            row.runs_lost += 1
            ward.keep(f"no step after {newest} was taken")
        again = goes_on(ward, row, max(ward.whole(), default=0))
        for child in again:
            os.kill(child, signal.SIGTERM)
        wait(again)
    return row


def _at(steps_later: int, rank_with_it: int, act: Callable[[], None]) -> Callable[[int], None]:
    """Does something in the forward pass of one rank, some steps after the run's first."""

    def fault(rank: int) -> None:
        real, first = Policy.token_logprobs, []

        def token_logprobs(self: Policy, batch: Any, **more: Any) -> torch.Tensor:
            found = real(self, batch, **more)
            if torch.is_grad_enabled() and PULSE.step:
                first.append(PULSE.step)
                if rank == rank_with_it and PULSE.step == first[0] + steps_later:
                    return act() or found * float("nan")
            return found

        Policy.token_logprobs = token_logprobs  # type: ignore[method-assign]

    return fault


def _out_of_memory(rank: int) -> None:
    real = Policy.token_logprobs

    def token_logprobs(self: Policy, batch: Any, **more: Any) -> torch.Tensor:
        if rank and torch.is_grad_enabled() and len(batch.parts) > 1 and type(batch.ids_BT) is torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, batch, **more)

    Policy.token_logprobs = token_logprobs  # type: ignore[method-assign]


def disks(inputs: Path, number: int) -> Row:
    """A disk that is full while the run writes into it; then it has room again."""
    row = Row()
    for _ in range(number):
        ward, mount = Ward(inputs, 1), Path(tempfile.mkdtemp(dir=inputs, prefix="disk-"))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)], check=True)
        try:
            ward.anew(mount / "out")
            filler = mount / "filler"

            def fill(filler: Path = filler, mount: Path = mount) -> None:
                with filler.open("wb") as file, contextlib.suppress(OSError):  # the run may be quicker to fill it
                    file.write(bytes(max(0, os.statvfs(mount).f_bavail * os.statvfs(mount).f_frsize - 30_000)))

            refused(ward, row, fill, filler.unlink)
        finally:
            subprocess.run(["umount", "-l", str(mount)], check=True)
    return row


def folders(inputs: Path, number: int) -> Row:
    """A folder in which nothing can be made or removed any more, even by root; then it is as before."""
    row = Row()
    for _ in range(number):
        ward, folder = Ward(inputs, 1), Path(tempfile.mkdtemp(dir=inputs, prefix="folder-")) / "out"
        ward.anew(folder)
        change = lambda how, folder=folder: subprocess.run(["chattr", how, str(folder)], check=True)  # noqa: E731
        try:
            refused(ward, row, lambda change=change: change("+i"), lambda change=change: change("-i"))
        finally:
            change("-i")
    return row


def refused(ward: Ward, row: Row, refuse: Callable[[], object], allow: Callable[[], object]) -> None:
    """A run that cannot write from its seventh step on ends with an error, and goes on once it can."""
    children = ward.start()
    stepping(ward, children, 7)
    before = ward.whole()
    refuse()
    wait(children)
    allow()
    judge(ward, row, before)
    again = goes_on(ward, row, max(ward.whole(), default=0))
    for child in again:
        os.kill(child, signal.SIGTERM)
    wait(again)


def make_inputs(folder: Path, *, width: int = 32, rows: int = 64) -> None:
    """A model of two layers, its tokenizer, and rows."""
    words = "the quick brown fox jumps over a lazy dog near Paris and five rivers of rain sing".split()
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|pad|>", "<|bos|>", "<|im_end|>", "<|im_start|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(words, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet))
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|pad|>", bos_token="<|bos|>", eos_token="<|im_end|>", chat_template=template
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    said = [{"instruction": f"Say {i}", "input": "", "output": " ".join(words[: 2 + i % 12])} for i in range(rows)]
    (folder / "rows.json").write_text(json.dumps(said))
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))


def watch_cost() -> str:
    """What the watch takes: of a beat, and of a look at all of 2, 64 and 1,024 processes, in processor time."""
    started = time.process_time()
    for number in range(100_000):
        PULSE.beat("forward", (number,))
    beat = (time.process_time() - started) / 100_000
    store = TCPStore("127.0.0.1", _free_port(), is_master=True, wait_for_workers=False)
    looks = []
    for world in (2, 64, 1024):
        watch = Watch(0, world, 600, Path(), name_rows=str, rescue=str, name_lost=str)
        for rank in range(world):
            store.set(f"sign/{rank}", json.dumps(vars(Sign(rank, "h", 1, 1, 1, 1, "forward", True))))
        started = time.process_time()
        watch._tick(store)
        looks.append(f"{world}: {1000 * (time.process_time() - started):.1f} ms")
    return f"watch: {1e6 * beat:.2f} microseconds a beat (5 a step of one micro-batch); a look every 5 s at {', '.join(looks)}"


def main() -> int:
    """Inject, count, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="in steps and saves")
    parser.add_argument("--others", type=int, default=5, help="times every other fault is injected")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance, lost = random.Random(asked.seed), 0
    with tempfile.TemporaryDirectory() as name:
        inputs, times = Path(name), asked.others
        make_inputs(inputs)
        stuck, poison = _at(3, 1, lambda: time.sleep(3600)), _at(3, 1, lambda: None)
        table: dict[str, tuple[str, Callable[[], Row]]] = {
            "kill-work": ("kill -9 in steps and saves", lambda: kills_at_work(Ward(inputs, 1), asked.kills, chance)),
            "kill-1": ("kill -9 from the start on, one process", lambda: kills(Ward(inputs, 1), times, chance)),
            "kill-2": (
                "kill -9, one or both of two processes",
                lambda: kills(Ward(inputs, 2), times, chance),
            ),
            "term-1": ("SIGTERM, one process", lambda: signalled(Ward(inputs, 1), times, chance)),
            "term-2": ("SIGTERM, two processes", lambda: signalled(Ward(inputs, 2), times, chance)),
            "stuck": ("one of two processes stuck", lambda: patched(Ward(inputs, 2), times, stuck, ends=True)),
            "nan": ("NaN in one process's rows of two", lambda: patched(Ward(inputs, 2), times, poison, ends=True)),
            "oom": ("one of two processes out of memory", lambda: patched(Ward(inputs, 2), times, _out_of_memory, ends=False)),
            "full": ("disk full", lambda: disks(inputs, times)),
            "read-only": ("folder turned read-only", lambda: folders(inputs, times)),
        }
        print("| fault | injected | runs lost | finished checkpoints lost | steps repeated (mean / most) |")
        print("|---|---|---|---|---|", flush=True)
        for key, (title, inject) in table.items():
            if not asked.only or key in asked.only:
                row = inject()
                lost += row.runs_lost + row.checkpoints_lost
                print(row.line(title), flush=True)
    print(watch_cost())
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
