"""A training step beside its bare matrix products, on a CPU: `python bench/step_floor.py [CASE ...] [--data FOLDER]`.

Knows no operation by name but products. Steps of hone's settings of a case of cases.toml, in this process on one thread; each
product of linear layers and head that a step makes (attention's own left out) is then made alone on random numbers, by the same
function, and so often as the step makes it. Processor seconds, the least of three rounds; page faults of the last step.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import inputs
import torch
from cases import Case, Setting, read
from sides.hone import words
from torch.utils._python_dispatch import TorchDispatchMode

from hone.config import load
from hone.kernels.cpu_product import product
from hone.training.loop import take_step
from hone.training.prepare import prepare
from hone.training.session import Session

PRODUCTS = {"aten::mm": (0, 1), "aten::addmm": (1, 2), "aten::addmm_": (1, 2), "aten::addmm.out": (1, 2)}
STEPS = 4


class Seen(TorchDispatchMode):
    """How often each product (rows, summed over, columns, type) was made."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[tuple[int, int, int, torch.dtype]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        places = PRODUCTS.get(func._schema.name)
        if places is not None:
            left, right = (args[place] for place in places)
            self.products[*left.shape, right.shape[1], left.dtype] += 1
        return func(*args, **(kwargs or {}))


def bare_seconds(products: Counter[tuple[int, int, int, torch.dtype]]) -> float:
    """All of them alone."""
    whole = 0.0
    for (rows, summed, columns, dtype), times in products.items():
        left, right = torch.randn(rows, summed).to(dtype), torch.randn(columns, summed).to(dtype)
        whole += times * least(lambda left=left, right=right: product(left, right), 5)
    return whole


def least(work: Any, times: int = 1) -> float:
    """Processor seconds of `work`, the least of three rounds."""
    found = []
    for _ in range(3):
        begun = time.process_time()
        for _ in range(times):
            work()
        found.append((time.process_time() - begun) / times)
    return min(found)


def session_of(case: Case, setting: Setting, given: dict[str, Any]) -> Session:
    """The run, made ready in a folder of its own."""
    os.chdir(tempfile.mkdtemp(dir=Path(given["model"]).parent))
    Path("run.yaml").write_text(json.dumps(words(case.job(setting, given, steps=STEPS))))
    session = prepare(load(["run.yaml"], "train"), settings="")
    assert isinstance(session, Session)
    return session


def measure(case: Case, setting: Setting, given: dict[str, Any]) -> str:
    """A row of the table."""
    session = session_of(case, setting, given)
    session.work.policy.module.train()
    steps = [session.feed.step(number) for number in range(STEPS)]
    for step in steps:
        take_step(session.work, step)
    seconds = sum(least(lambda step=step: take_step(session.work, step)) for step in steps)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    take_step(session.work, steps[-1])
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    bare, flops = 0.0, 0
    for step in steps:
        with Seen() as seen:
            take_step(session.work, step)
        bare += bare_seconds(seen.products)
        flops += sum(2 * rows * summed * columns * times for (rows, summed, columns, _), times in seen.products.items())
    tokens = sum(micro.batch.num_trained for step in steps for micro in step)
    told = (f"{case.name}, {setting.name}", f"{tokens / seconds:.0f}", f"{tokens / bare:.0f}", f"{bare / seconds:.0%}")
    return "| " + " | ".join((*told, f"{flops / bare / 1e9:.0f}", f"{faults:,}")) + " |"


def main() -> None:
    """One row a case and setting."""
    torch.set_num_threads(1)
    told, cases = read()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=["lora-short", "full-short"])
    parser.add_argument("--data", type=Path, default=inputs.DATA)
    asked = parser.parse_args()
    rows = ["| | trained tokens / cpu s | by bare products | products' share | GFLOP/s of them | page faults |", "|" + "---|" * 6]
    with tempfile.TemporaryDirectory() as folder:
        given = inputs.make(Path(folder), told, asked.data.absolute())
        rows += [measure(cases[name], one, given) for name in asked.cases for one in cases[name].settings if one.system == "hone"]
        os.chdir("/")
    print("", *rows, sep="\n")


if __name__ == "__main__":
    main()
