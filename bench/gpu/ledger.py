"""What the runs of one call left: a table a case, written again after each run, so that a call that is cut off keeps its results.

Does not know how a run is made. In FOLDER: results.md, results.json, and logs.txt with the end of what each run said.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cases import Case, Setting
from report import Measured, measured, spread

HEADS = (
    "setting", "tokens / s", "faster than the first", "MFU", "peak allocated, GiB", "reserved", "first step, s", "last loss",
    "plan: activations, GiB, s a step",
)  # fmt: skip
_TOLD = re.compile(
    "attend sequence by sequence|^fused:|^in float8|weights in float8|products in 8 bits|layers in 4 bits|weights in 4 bits|"
    "batches are copied|packed sequences would|could not be rehearsed|as peft does|^tried first|out of memory|portions"
)
"""What hone says of trials on the device, and of what it does instead where one fails."""
_KEPT = 6000
"""Characters of a run's log that are kept."""


@dataclass
class Ledger:
    """folder: None where nothing is written."""

    head: str
    ceiling: float
    folder: Path | None
    titles: dict[str, str] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    firsts: dict[str, dict[str, Any]] = field(default_factory=dict)
    plains: dict[str, Measured] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)

    def add(self, case: Case, setting: Setting, notes: dict[str, Any], place: Path, flops: float) -> str:
        """The line of a run that has ended; what the tokens and losses of its case are held to is the first that was done."""
        if not measured(case, setting, notes, notes).problem:  # a loss that is no number is not what others are held to
            self.firsts.setdefault(case.name, notes)
        found = measured(case, setting, notes, self.firsts.get(case.name, notes))
        plain = self.plains.get(case.name)
        line = row(found, notes, plain, flops / self.ceiling, planned(place))
        if setting.system != "hone" and not found.problem:
            self.plains.setdefault(case.name, found)
        log = (place / "log.txt").read_text(errors="replace") if (place / "log.txt").is_file() else ""
        self.notes.setdefault(case.name, {})[setting.label] = notes | {"told": told(log)}
        self.say(case, line)
        if self.folder is not None:
            with (self.folder / "logs.txt").open("a") as file:
                file.write(f"\n===== {case.name} {setting.label}\n{log[-_KEPT:]}")
        return line

    def say(self, case: Case, line: str) -> None:
        """Put a line into the case's table, and write all of them."""
        self.titles[case.name] = case.title
        self.lines.setdefault(case.name, []).append(line)
        if self.folder is not None:
            (self.folder / "results.md").write_text(self.text())
            (self.folder / "results.json").write_text(json.dumps({"head": self.head, "checks": self.checks, "runs": self.notes}))

    def text(self) -> str:
        """Markdown."""
        tables = [
            f"## {name}: {self.titles[name]}\n\n| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}\n" + "\n".join(lines)
            for name, lines in self.lines.items()
        ]
        return "\n\n".join([self.head, "\n".join(self.checks), *tables]) + "\n"


def row(found: Measured, notes: dict[str, Any], plain: Measured | None, seconds_per_token: float, plan: str = "") -> str:
    """A line of the table. plain: the first run of another system; seconds_per_token: what a token takes at the ceiling."""
    if found.problem:
        return f"| {found.label} | no result: {found.problem} |" + " |" * (len(HEADS) - 2)
    later, over = notes["steps"][1:], ""
    rates = [step["tokens"] / step["wall"] for step in later]
    if plain:
        over = spread([mine / its for mine, its in zip(found.figures["wall_rate"], plain.figures["wall_rate"], strict=True)])
    memory = notes.get("device", {"allocated": notes["peak"], "reserved": notes["peak"]})
    shares = spread([rate * seconds_per_token for rate in rates], ".1%")
    sizes = [f"{memory[name] / 2**30:.1f}" for name in ("allocated", "reserved")]
    cells = [found.label, spread(rates, ",.0f"), over, shares, *sizes, f"{notes['steps'][0]['wall']:.1f}"]
    return f"| {' | '.join(cells)} | {notes['steps'][-1]['loss']:.4f} | {plan} |"


def planned(place: Path) -> str:
    """What hone's plan chose and foresaw; "" of another system."""
    file = place / "out" / "plan.json"
    if not file.is_file():
        return ""
    plan = json.loads(file.read_text())
    size = sum(number for name, number in plan["memory"].items() if name not in _NOT_ALLOCATED)
    by = "" if plan["from_layers"] else ", by a formula"
    return f"{plan['activations']}, {size / 2**30:.1f}, {plan['step_seconds']:.2f}{by}"


_NOT_ALLOCATED = ("libraries", "host", "fragmentation")


def told(log: str) -> list[str]:
    """The lines of a log that tell of trials."""
    parts = (part.strip() for line in log.splitlines() for part in line.split("\r"))
    return list(dict.fromkeys(part[-300:] for part in parts if _TOLD.search(part)))
