"""Report: what became of every row of every data set: read, kept, refused and why, cut, split, repeated; and how long they are.

Does not know how rows are read, encoded or stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from hone.errors import DataError

EXAMPLES = 5
"""How many rows of each reason are named."""
_STAGES = {"chosen": "stage: dpo", "rejected": "stage: dpo", "kto_tag": "stage: kto"}
"""What learns from a column that nothing else reads."""


@dataclass(frozen=True)
class Refusal:
    """Rows refused for one reason. rows: the first few of them, with what was seen."""

    reason: str
    count: int
    rows: tuple[tuple[int, str], ...]

    def examples(self) -> str:
        """The first rows, each with what was seen where that is not what was seen in the row before."""
        named, last = [], ""
        for number, detail in self.rows:
            named.append(f"row {number} ({detail})" if detail != last else f"row {number}")
            last = detail
        return ", ".join(named) + (", ..." if self.count > len(self.rows) else "")


@dataclass(frozen=True)
class SetReport:
    """One data set. read = kept + refused + dropped; sequences >= kept, as a row that was split makes several.

    length: tokens of a sequence at p50, p90, p99 and max; longest: tokens of the longest row before cutting.
    unread: rows that fill a column which the entry does not name, by column. rewritten: rows learned as several examples, as the
    template rewrites earlier answers; examples: of all rows together; repeated: tokens encoded again for that, before cutting.
    answers_cut: rows truncated in what is learned. unasked: rows with an empty question.
    """

    name: str
    read: int
    kept: int
    refused: tuple[Refusal, ...]
    dropped: int
    truncated: int
    split: int
    duplicates: int
    placeholders: int
    sequences: int
    tokens: int
    trained_tokens: int
    length: Mapping[str, int]
    longest: int
    unread: Mapping[str, int] = field(default_factory=dict)
    rewritten: int = 0
    examples: int = 0
    repeated: int = 0
    answers_cut: int = 0
    unasked: int = 0

    @property
    def num_refused(self) -> int:
        """Rows refused, whatever the reason."""
        return sum(refusal.count for refusal in self.refused)

    def lines(self, unit: str = "sequences") -> list[str]:
        """The report for people, one fact a line. unit: what its examples are called."""
        lines = [f"{self.name}: {self.read:,} rows read, {self.kept:,} kept, {self.num_refused:,} refused"]
        for refusal in self.refused:
            lines.append(f"  refused {refusal.count:,}: {refusal.reason}: {refusal.examples()}")
        cut = f"truncated ({self.answers_cut:,} of them in their answers)" if self.answers_cut else "truncated"
        counts = {"dropped as too long": self.dropped, cut: self.truncated, "split": self.split}
        counts |= {"exact duplicates": self.duplicates}
        if any(counts.values()):
            lines.append("  " + ", ".join(f"{count:,} {what}" for what, count in counts.items() if count))
        if self.rewritten:
            lines.append(
                f"  {self.rewritten:,} rows have answers that the template writes otherwise once more is said: each of them is "
                f"an example of its own ({self.examples:,} examples in all), which repeats {self.repeated:,} tokens; to repeat "
                "none, write preserve_thinking: true or mask_history: true, or name a template without thoughts"
            )
        share = f"{self.trained_tokens / self.tokens:.0%}" if self.tokens else "0%"
        lines.append(f"  {self.sequences:,} {unit}, {self.tokens:,} tokens, {self.trained_tokens:,} of them trained ({share})")
        spread = ", ".join(f"{name} {value:,}" for name, value in self.length.items())
        lines.append(f"  tokens each: {spread}" + (f" (longest row {self.longest:,})" if self.truncated or self.split else ""))
        for column, count in self.unread.items():
            stage = _STAGES.get(column)
            advice = f'name it in dataset_info.json: columns: {{"{column}": "{column}", ...}} with all the others'
            if stage:
                advice = f"train with {stage} on an entry that names it"
            lines.append(f'  warning: {count:,} rows fill the column "{column}", which is not read; if it matters, {advice}')
        if self.unasked:
            lines.append(f"  warning: {self.unasked:,} rows ask nothing: a question is empty or null; they are learned so")
        if self.placeholders:
            lines.append(
                f"  warning: {self.placeholders:,} rows hold {{{{name}}}} or {{{{author}}}}, which is learned as it stands; "
                "put your own names in their place"
            )
        return lines

    def check(self, max_bad_rows: float) -> None:
        """Raise DataError where more than this share of the rows was refused, or none was kept."""
        share = self.num_refused / self.read if self.read else 0.0
        if share > max_bad_rows:
            text = "\n".join(self.lines()[: len(self.refused) + 1])
            raise DataError(
                f"{share:.1%} of the rows of {self.name} cannot be used; max_bad_rows allows {max_bad_rows:.1%}\n{text}\n"
                "Mend the rows (or the entry in dataset_info.json), or raise max_bad_rows to go on without them."
            )
        if not self.kept:
            advice = "\nWrite a larger cutoff_len, or overlong: truncate_right." if self.dropped else ""
            lines = "\n".join(self.lines()[: len(self.refused) + 2])
            raise DataError(f"no row of {self.name} is left to learn from\n{lines}{advice}")

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> SetReport:
        """The report that `asdict` made this of."""
        refused = tuple(
            Refusal(item["reason"], item["count"], tuple((number, detail) for number, detail in item["rows"]))
            for item in content["refused"]
        )
        return SetReport(**{**content, "refused": refused})


@dataclass(frozen=True)
class Report:
    """The sets of one run, and how many examples their mixture has, called `unit`. reused: names of sets found in the cache."""

    sets: tuple[SetReport, ...]
    sequences: int
    tokens: int
    trained_tokens: int
    reused: tuple[str, ...] = ()
    unit: str = "sequences"

    def lines(self) -> list[str]:
        """The report for people, one fact a line."""
        lines = [line for report in self.sets for line in report.lines(self.unit)]
        if self.reused:
            lines.append(f"found encoded in the cache: {', '.join(self.reused)}")
        if len(self.sets) > 1 or self.sequences != sum(report.sequences for report in self.sets):
            lines.append(
                f"together: {self.sequences:,} {self.unit}, {self.tokens:,} tokens, {self.trained_tokens:,} of them trained"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The report for machines: JSON types only."""
        return asdict(self)


@dataclass
class Tally:
    """Counts rows while they are read and encoded; `report` sums up."""

    read: int = 0
    kept: int = 0
    dropped: int = 0
    truncated: int = 0
    split: int = 0
    placeholders: int = 0
    longest: int = 0
    refusals: dict[str, Refusal] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)
    rewritten: int = 0
    examples: int = 0
    repeated: int = 0
    answers_cut: int = 0
    unasked: int = 0

    def refuse(self, row: int, reason: str, detail: str) -> None:
        """Count a row that cannot be used."""
        known = self.refusals.get(reason, Refusal(reason, 0, ()))
        rows = (*known.rows, (row, detail)) if len(known.rows) < EXAMPLES else known.rows
        self.refusals[reason] = replace(known, count=known.count + 1, rows=rows)

    def add(self, other: Tally) -> None:
        """Count the rows that `other` has counted, which stand behind these."""
        for one in fields(self):
            mine, more = getattr(self, one.name), getattr(other, one.name)
            if isinstance(mine, int):
                setattr(self, one.name, max(mine, more) if one.name == "longest" else mine + more)
        self.unread.update(other.unread)
        for reason, more in other.refusals.items():
            known = self.refusals.get(reason, Refusal(reason, 0, ()))
            self.refusals[reason] = Refusal(reason, known.count + more.count, (*known.rows, *more.rows)[:EXAMPLES])

    def report(self, name: str, lengths: np.ndarray, trained: np.ndarray, duplicates: int) -> SetReport:
        """lengths, trained: tokens and trained tokens of each sequence kept."""
        refused = tuple(sorted(self.refusals.values(), key=lambda refusal: -refusal.count))
        return SetReport(
            name, self.read, self.kept, refused, self.dropped, self.truncated, self.split, duplicates, self.placeholders,
            len(lengths), int(lengths.sum()), int(trained.sum()), spread(lengths), self.longest,
            dict(self.unread), self.rewritten, self.examples, self.repeated, self.answers_cut, self.unasked,
        )  # fmt: skip


def spread(lengths: np.ndarray) -> dict[str, int]:
    """p50, p90, p99 (the nearest length that is there) and max; nothing for no lengths."""
    if not len(lengths):
        return {}
    marks = np.percentile(lengths, [50, 90, 99, 100], method="nearest")
    return dict(zip(("p50", "p90", "p99", "max"), (int(mark) for mark in marks), strict=True))
