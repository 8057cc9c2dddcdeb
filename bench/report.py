"""The report: what runs left, judged and put in tables, and the goals beside them.

Does not know how a run is made; a figure is a list of samples, one a round, so that two settings are compared round by round.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Any

from cases import HERE, Case, Setting

NEAR, REPACKED = {"sft": (1e-3, 1e-2), "dpo": (5e-3, 5e-2)}, 0.02
"""How far a step's loss may be from hone's, in fp32 and where either computes in bf16: of DPO more, as its margin is a tenth of a
sum over hundreds of tokens and not their mean. REPACKED: of the mean of all steps, as a share, where rows are packed anew."""
MORE_IS_BETTER = ("rate",)
Notes = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """A setting's figures by name, each with a sample a round. problem: why it is no result, "" for one that is."""

    label: str
    figures: Mapping[str, list[float]] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Goal:
    """A line of goals.toml. over: a label in which * stands for anything; stretch: 0 for none."""

    case: str
    text: str
    figure: str
    of: str
    over: str
    goal: float
    stretch: float = 0.0


def read_goals(file: Path = HERE / "goals.toml") -> list[Goal]:
    """All of them."""
    return [Goal(**told) for told in tomllib.loads(file.read_text())["goal"]]


def problem_of(case: Case, setting: Setting, notes: Notes, reference: Notes) -> str:
    """Why a run is no result: it failed, took other tokens than the reference, or found another loss; "" where it is one."""
    if "error" in notes:
        return notes["error"]
    mine, its = notes["steps"], reference["steps"]
    if len(mine) != len(its):
        return f"{len(mine)} steps of {len(its)}"
    if setting.repacks:
        means = [sum(step["loss"] * step["tokens"] for step in steps) / tokens_of(steps) for steps in (mine, its)]
        share = tokens_of(mine) / tokens_of(its)
        if abs(share - 1) > 0.1:
            return f"other tokens: {share:.2f} times as many"
        return "" if abs(means[0] / means[1] - 1) <= REPACKED else f"another loss: {means[0]:.4f} on average, not {means[1]:.4f}"
    near = NEAR[case.stage][not setting.exact]
    for number, (one, other) in enumerate(zip(mine, its, strict=True), 1):
        if one["digest"] != other["digest"]:
            return f"other tokens in step {number}"
        if not abs(one["loss"] - other["loss"]) <= near:  # a loss that is no number is another one too
            return f"another loss in step {number}: {one['loss']:.4f}, not {other['loss']:.4f}"
    return ""


def tokens_of(steps: Iterable[Notes]) -> int:
    """Tokens that are not padding."""
    return sum(step["tokens"] for step in steps)


def measured(case: Case, setting: Setting, notes: Notes, reference: Notes) -> Measured:
    """The figures of a training run: rates from its second step on, costs as one sample.

    rate: trained tokens (DPO: pairs) a second of processor time; wall: the same of the clock's; first: processor seconds from
    the command to the end of the first step; first_wall; prepare: those of them that were neither imports, weights nor that
    step; over: bytes above what was resident when the first file of a model was asked for; above: less the weights.
    """
    if problem := problem_of(case, setting, notes, reference):
        return Measured(setting.label, problem=problem)
    later = notes["steps"][1:]
    units = [case.batch if case.stage == "dpo" else step["tokens"] for step in later]
    over = notes["peak"] - notes["imported"]["bytes"]
    return Measured(
        setting.label,
        {
            "rate": [unit / step["cpu"] for unit, step in zip(units, later, strict=True)],
            "wall_rate": [unit / step["wall"] for unit, step in zip(units, later, strict=True)],
            "first": [notes["steps"][0]["cpu"]],
            "first_wall": [notes["steps"][0]["wall"]],
            "prepare": [notes["ready"] - notes["imported"]["cpu"] - notes["loading"]],
            "over": [over],
            "above": [over - notes["weights"]],
            "places": [sum(step["places"] for step in later) / tokens_of(later)],
            "loss": [notes["steps"][-1]["loss"]],
        },
    )


def times_better(one: Measured, other: Measured, figure: str) -> list[float]:
    """By how much `one` is better than `other`, round by round; [] where either is no result."""
    if one.problem or other.problem:
        return []
    pairs = zip(one.figures[figure], other.figures[figure], strict=True)
    return [mine / its if figure in MORE_IS_BETTER else its / mine for mine, its in pairs]


def spread(samples: list[float], form: str = ".2f") -> str:
    """ "3.12 (2.90 to 3.40)": the median, with the least and the most where there are several."""
    if not samples:
        return ""
    least, middle, most = (format(number, form) for number in (min(samples), median(samples), max(samples)))
    return f"{middle} ({least} to {most})" if len(samples) > 1 else middle


def training_table(case: Case, found: list[Measured]) -> list[str]:
    """Markdown: a row a setting. The first two settings are hone's; how many times faster they are stands beside each peer."""
    unit = "pairs" if case.stage == "dpo" else "tokens"
    mine = [one for one in found if one.label.startswith("hone")]
    heads = [
        "setting", f"{unit} / cpu s", f"{unit} / s", *(f"{one.label} faster" for one in mine), "places a token",
        "first step, cpu s", "s", "of it data, cpu s", "peak over imports, MiB", "and model", "last loss",
    ]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for one in found:
        if one.problem:
            lines.append(f"| {one.label} | no result: {one.problem} |" + " |" * (len(heads) - 2))
            continue
        form = ".2f" if case.stage == "dpo" else ",.0f"
        cells = [one.label, spread(one.figures["rate"], form), format(median(one.figures["wall_rate"]), form)]
        cells += [spread(times_better(its, one, "rate")) if one is not its else "" for its in mine]
        cells += [f"{one.figures[name][0]:.2f}" for name in ("places",)]
        cells += [f"{one.figures[name][0]:.1f}" for name in ("first", "first_wall", "prepare")]
        cells += [f"{one.figures[name][0] / 2**20:,.0f}" for name in ("over", "above")]
        lines.append(f"| {' | '.join(cells)} | {one.figures['loss'][0]:.4f} |")
    return lines


def plain_table(found: list[Measured], titles: Mapping[str, str]) -> list[str]:
    """Markdown: a row a setting, a column a figure."""
    lines = [f"| | {' | '.join(titles.values())} |", "|" + "---|" * (len(titles) + 1)]
    for one in found:
        cells = [one.problem] if one.problem else [spread(one.figures.get(name, [])) for name in titles]
        lines.append(f"| {one.label} | {' | '.join(cells)} |")
    return lines


def goal_lines(goals: Iterable[Goal], found: Mapping[str, list[Measured]]) -> list[str]:
    """Markdown: the goals of the cases that ran; a peer that is no result gives no figure."""
    lines = ["| goal | of | over | wanted | stretch | measured | |", "|---|---|---|---|---|---|---|"]
    for goal in goals:
        by_label = {one.label: one for one in found.get(goal.case, [])}
        for label in sorted(label for label in by_label if fnmatch(label, goal.over) and not label.startswith("hone")):
            if goal.of not in by_label:
                continue
            samples = times_better(by_label[goal.of], by_label[label], goal.figure)
            verdict = "no result" if not samples else "reached" if median(samples) >= goal.goal else "missed"
            stretch = f"{goal.stretch:g}" if goal.stretch else ""
            lines.append(f"| {goal.text} | {goal.of} | {label} | {goal.goal:g} | {stretch} | {spread(samples)} | {verdict} |")
    return lines
