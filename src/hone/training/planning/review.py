"""Review: what a run would learn, shown before it costs anything, and every reason not to start it.

Does not load weights nor train; it drafts the same data and plan that training does.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hone.chat.encoded import IGNORE, Encoded, Example
from hone.chat.laws import LawResult, format_faults, law_lines, laws_of
from hone.config.run import Run
from hone.data.build import first_samples
from hone.errors import TrainingError
from hone.inference.preview import verdict
from hone.kernels.machine import device_of
from hone.objectives.onpolicy import OnPolicy
from hone.training.checkpoints.resume import require_free_output
from hone.training.planning.choose import choose
from hone.training.planning.draft import PLAIN, Material, draft_plan, gather_material, lay_steps, never_learns
from hone.training.planning.hardware import count_named, hardware_of
from hone.training.planning.means import require_means, require_there
from hone.training.planning.names import require_names
from hone.training.planning.plan import Plan
from hone.training.planning.precision import settled
from hone.training.prompts import ready_to_draw

_FEW = 0.1
"""The share of rows whose answers may be cut without a warning."""
_COLOUR, _PLAIN = ("\x1b[32m", "\x1b[0m"), ("[+", "+]")


@dataclass(frozen=True)
class Shown:
    """One sample as it will be trained: where it came from, its tokens, its text with what is learned marked."""

    origin: str
    tokens: int
    trained: int
    text: str


@dataclass(frozen=True)
class Review:
    """faults: reasons why the run would learn nothing, or the wrong thing; none of them is a matter of taste.

    warnings: what may be meant and seldom is. trains: whether the run learns anything, or only uses the model.
    """

    samples: list[Shown]
    material: Material
    laws: list[LawResult]
    plan: Plan
    faults: list[str]
    warnings: list[str]
    trains: bool

    def lines(self) -> list[str]:
        """The review for people."""
        shown = [line for sample in self.samples for line in (_heading(sample), sample.text, "")]
        good = "no fault found" if self.plan.fits else "no fault found, but that the plan does not fit"
        told = verdict(self.warnings, self.faults, good)
        laws = ["", "laws of the chat format", *law_lines(self.laws), ""]
        return [*shown, *self.material.tokens.report.lines(), *laws, *self.plan.lines(trains=self.trains), "", *told]

    def to_dict(self) -> dict[str, Any]:
        """The review for machines."""
        return {
            "samples": [vars(sample) for sample in self.samples],
            "data": self.material.tokens.report.to_dict(),
            "laws": [vars(law) for law in self.laws],
            "plan": self.plan.to_dict(),
            "faults": self.faults,
            "warnings": self.warnings,
        }


def _heading(sample: Shown) -> str:
    return f"{sample.origin}: {sample.tokens} tokens, {sample.trained} trained"


def review(run: Run, *, world: int, count: int, colour: bool, named: str = "") -> Review:
    """Draft the run and look at its first `count` samples. world: processes the run will have.

    named: hardware that is planned for in place of this machine's, as "h100" or "8xh100", of which each has a process.
    """
    if named:
        world, named = count_named(named)
    world = max(1, world // run.parallel.together)
    device = device_of(use_cpu=run.train.use_cpu or bool(named))
    hardware = hardware_of(device, named)
    run = settled(run, hardware.machine)
    if run.train.do_train:
        require_free_output(run)
    require_names(run)
    if named:
        require_there(run, hardware.machine)
    else:
        require_means(run, device)
    material = gather_material(run)
    choice = choose(run, material.objective, material.tokens, device=device, world=world, named=named)
    run = choice.settle(run)
    plan = draft_plan(run, material, lay_steps(run, material, world), choice, device=device, world=world, named=named)
    first = first_samples(run.data, material.objective, material.codec, run.data.dataset, count)
    samples = [
        Shown(
            f"{name} row {number}",
            len(example),
            example.num_trained,
            "\n".join(paint(one, material.codec.tokenizer, colour=colour) for one in example.sequences),
        )
        for (name, number), _, example in first
    ]
    laws = [] if run.objective.kind in PLAIN else laws_of(material.codec)
    examples = [example for _, _, example in first]
    faults = find_faults(run, material, laws, examples)
    faults += [problem] if (problem := never_learns(run, plan)) else []
    warnings = find_warnings(run, material) + ([] if plan.fits else [f"memory: {plan.too_much()}"])
    return Review(samples, material, laws, plan, faults, warnings, run.train.do_train)


def _missing_rewards(run: Run, material: Material) -> list[str]:
    """What a run that learns from its own answers would miss to judge them by."""
    if not isinstance(material.objective, OnPolicy):
        return []
    try:
        ready_to_draw(run, material.objective, material.codec, material.pad_id)
    except TrainingError as problem:
        return [str(problem)]
    material.objective.close()
    return []


def find_faults(run: Run, material: Material, laws: list[LawResult], first: list[Example]) -> list[str]:
    """Every reason not to start the run."""
    faults = _missing_rewards(run, material)
    if material.objective.has_labels and not material.tokens.trained.sum():
        faults.append("nothing would be trained: no token of the data is learned; look at the samples and the report above")
    if problem := material.objective.problem_of(material.tokens):
        faults.append(problem)
    if run.objective.kind in PLAIN:
        return faults
    stops = set(material.codec.stop_ids)
    sequences = [sequence for example in first for sequence in example.sequences]
    if material.objective.has_labels and not all(_ends_in_stop(sequence, stops) for sequence in sequences):
        faults.append("an answer's stop token is not trained: the model would not learn to end its answers")
    return faults + format_faults(material.codec, laws)


def find_warnings(run: Run, material: Material) -> list[str]:
    """Sets of which more than a tenth of the rows lose a part of their answers."""
    return [
        f"cutoff_len: {run.data.cutoff_len} cuts the answers of {one.answers_cut:,} of {one.kept:,} rows of {one.name}: what is "
        f"learned is to stop there; the longest row has {one.longest:,} tokens. Raise cutoff_len, or write overlong: drop"
        for one in material.tokens.report.sets
        if one.answers_cut > _FEW * one.kept
    ]


def _ends_in_stop(sequence: Encoded, stops: set[int]) -> bool:
    """Whether the last token that is learned is a stop token; a sequence without one is told by the report."""
    trained = sequence.ids[sequence.labels != IGNORE]
    return not len(trained) or int(trained[-1]) in stops


def paint(encoded: Encoded, tokenizer: Any, *, colour: bool) -> str:
    """The sequence's text with what is learned in green, or between [+ and +] where there is no colour."""
    start, end = _COLOUR if colour else _PLAIN
    learned = encoded.labels != IGNORE
    borders = [0, *(index for index in range(1, len(encoded)) if learned[index] != learned[index - 1]), len(encoded)]
    text = []
    for first, last in pairwise(borders):
        piece = tokenizer.decode(encoded.ids[first:last].tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        text.append(f"{start}{piece}{end}" if learned[first] else piece)
    return "".join(text)
