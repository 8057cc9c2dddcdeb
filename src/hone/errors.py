"""The one error tree: every mistake a user can make reaches them as one of these, with what was seen and what to write.

Knows nothing of any room; each room raises the class that names its subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


class HoneError(Exception):
    """A mistake the user can mend; the command line prints its text without a traceback and exits with `exit_code`."""

    exit_code = 2

    def to_list(self) -> list[dict[str, str]]:
        """For machines: place ("run.yaml:12", "command line" or ""), key ("" for none) and message of each mistake."""
        return [{"place": "", "key": "", "message": str(self)}]


@dataclass(frozen=True)
class Mistake:
    """One thing wrong, at one place.

    where: file and line ("run.yaml:12"), or "command line"; key: the setting or column, or "".
    """

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.where, self.key) if part)
        return f"{place}: {self.message}" if place else self.message


class ConfigError(HoneError):
    """Every mistake found in the settings, reported at once."""

    def __init__(self, mistakes: list[Mistake]):
        assert mistakes, "a ConfigError without a mistake"
        self.mistakes = tuple(mistakes)
        count = f"{len(mistakes)} mistakes" if len(mistakes) > 1 else "1 mistake"
        super().__init__(f"{count} in the settings:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))

    def to_list(self) -> list[dict[str, str]]:
        return [{"place": mistake.where, "key": mistake.key, "message": mistake.message} for mistake in self.mistakes]


class Several(HoneError):
    """Mistakes that do not follow from each other, told together; the exit code is the first one's."""

    def __init__(self, problems: list[HoneError]):
        self.problems, self.exit_code = tuple(problems), problems[0].exit_code
        super().__init__(f"{len(problems)} mistakes:\n" + "\n".join(f"  {problem}" for problem in problems))

    def to_list(self) -> list[dict[str, str]]:
        return [entry for problem in self.problems for entry in problem.to_list()]


def at_once(looks: Iterable[Callable[[], object]]) -> None:
    """Call every one of `looks`; raises what one of them raised, or `Several` of what more did, each text once."""
    problems: dict[str, HoneError] = {}
    for look in looks:
        try:
            look()
        except HoneError as problem:
            problems |= {str(one): one for one in (problem.problems if isinstance(problem, Several) else (problem,))}
    if problems:
        first, *others = problems.values()
        raise Several([first, *others]) if others else first


class DataError(HoneError):
    """A data set cannot be read, or too many of its rows cannot be used."""


class MediaError(DataError):
    """A picture, a film or a sound cannot be read."""


class TemplateError(HoneError):
    """A conversation cannot be rendered, or a template contradicts its tokenizer."""


class ModelError(HoneError):
    """A model, tokenizer or adapter cannot be loaded or combined as asked."""


class EngineError(ModelError):
    """The server of an engine does not answer, or not as it should; what was asked may be right."""

    exit_code = 1


class CheckpointError(HoneError):
    """A checkpoint cannot be written, read or continued."""


class TrainingError(HoneError):
    """The run must stop: a loss or gradient that is not a number, a device that is not there."""

    exit_code = 1


class RunError(TrainingError):
    """A run cannot be begun as its settings ask, with these data or on this machine: they are what is to be mended."""

    exit_code = 2


class ExportError(HoneError):
    """The exported model could not be written, or is not the model that was trained."""

    exit_code = 1


class PlaceError(ExportError):
    """export_dir cannot be the export's place: another folder is needed."""

    exit_code = 2


class MissingExtra(HoneError):
    """An optional package is needed that is not installed. extra: hone's that brings it, "" where none does."""

    def __init__(self, package: str, extra: str, reason: str):
        super().__init__(f"{reason} needs the package {package}: pip install " + (f'"hone-llm[{extra}]"' if extra else package))
