"""Runs: segments cut where tokens must not cross, as the plan of an outline.

Does not know templates, conversations or how runs are encoded. A run is broken at control tokens and where an answer starts or
ends, nowhere else, so that ids are those of the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from hone.chat.marks import Segment, parts_of
from hone.chat.tokens import Control, Place, Tokens


@dataclass
class Run:
    """Text between two cuts, from one or several segments, whose contents may be marks; or one control token."""

    place: Place
    segments: list[Segment] = field(default_factory=list)
    control: Control | None = None

    @cached_property
    def parts(self) -> tuple[str | int, ...]:
        """Its text, with the numbers of contents where marks stand."""
        return tuple(part for one in self.segments for part in (parts_of(one.text) if one.kind == "content" else (one.text,)))

    @cached_property
    def learned(self) -> bool | None:
        """Whether it is learned; None where one part is and another is not."""
        found = {segment.trained for segment in self.segments}
        return found.pop() if len(found) == 1 else None

    @cached_property
    def mixed(self) -> bool:
        """Whether its tokens come from different sources."""
        return len({(one.kind, one.message, one.trained) for one in self.segments}) > 1


@dataclass(frozen=True)
class Edge:
    """A content beside a control token that swallows white space: marks of its segment, and the side it would swallow from."""

    marked: str
    side: Literal["start", "end"]


def cut(segments: Sequence[Segment], tokens: Tokens) -> tuple[list[Run], list[Edge]]:
    """The runs of an outline, and where they would be others because of a content's white space."""
    runs: list[Run] = []
    edges: list[Edge] = []
    open_run, said = False, (False, -1)
    for segment in segments:
        says = (segment.answer, segment.message if segment.answer else -1)
        open_run, said = open_run and says == said, says
        pieces = tokens.split(segment.text) if segment.kind == "control" else [(segment.text, None)]
        for text, control in pieces:
            if control is not None:
                if control.lstrip and open_run:
                    _strip_end(runs, edges)
                runs.append(Run("after", [segment.saying(text)], control))
                open_run = False
                continue
            previous = runs[-1] if runs else None
            if not open_run:
                # White space behind such a token is its own, but not what an answer begins with.
                follows = previous is not None and previous.control is not None
                if follows and previous.control.rstrip and previous.segments[0].answer == segment.answer:
                    text = _stripped(segment, text, "start", edges)
                if not text:
                    continue
                runs.append(Run("head" if previous is None else "after" if follows else "middle"))
                open_run = True
            runs[-1].segments.append(segment.saying(text))
    return runs, edges


def _stripped(segment: Segment, text: str, side: Literal["start", "end"], edges: list[Edge]) -> str:
    """The text without white space on that side; a mark is none, and what it stands for is looked at when it is known."""
    if segment.kind == "content":
        edges.append(Edge(text, side))
    return text.lstrip() if side == "start" else text.rstrip()


def _strip_end(runs: list[Run], edges: list[Edge]) -> None:
    segments = runs[-1].segments
    while segments:
        last = segments.pop()
        if kept := _stripped(last, last.text, "end", edges):
            segments.append(last.saying(kept))
            return
    runs.pop()
