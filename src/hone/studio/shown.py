"""What was said, on the page: questions, and answers as they grow with thoughts and calls folded.

Does not know where an answer comes from.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from hone.chat.events import Event
from hone.studio.pieces import Piece, Pieces
from hone.studio.web import ui


def show_question(text: str, label: str = "", seen: Callable[[], None] = lambda: None) -> ui.element:
    """The user's words, or what a function gave back, with what they are. seen: shows the files that go with them."""
    with ui.column().classes("self-end items-end gap-1 max-w-[85%]") as shown:
        if label:
            ui.label(label).classes("note")
        with ui.row().classes("gap-2 justify-end"):
            seen()
        if text:
            ui.label(text).classes("said")
    return shown


class ShownAnswer:
    """Put what is new into `events`, `show()` it some time after, `close(note)` at the end."""

    def __init__(self) -> None:
        with ui.column().classes("answer w-full gap-2") as self._column:
            self._column_of_pieces = ui.column().classes("w-full gap-2")
            self._wait = ui.spinner("dots", size="1.6rem")
            self._note = ui.label().classes("note")
        self.events: list[Event] = []
        self._grown, self._num_seen = Pieces(), 0
        self._shown: list[_Shown] = []

    def show(self) -> None:
        """The answer as it is now."""
        self._feed()
        with self._column_of_pieces:
            self._shown += [_Shown(piece) for piece in self._grown.all[len(self._shown) :]]
        for one in self._shown:
            one.update()

    def close(self, note: str) -> None:
        """It grows no more."""
        self._feed()
        self._grown.close()
        self.show()
        self._wait.delete()
        self._note.text = note

    def _feed(self) -> None:
        self._grown.feed(self.events[self._num_seen :])
        self._num_seen = len(self.events)

    def remove(self) -> None:
        """Take it from the page."""
        self._column.delete()


class _Shown:
    """One piece: words as Markdown, the others behind a line that opens them."""

    def __init__(self, piece: Piece):
        self._piece, self._last = piece, ("", False)
        if piece.kind == "text":
            self._body = ui.markdown().classes("w-full")
            return
        icon = {"thought": "psychology", "call": "build", "broken": "warning"}[piece.kind]
        with ui.expansion(icon=icon).classes("fold w-full").props("dense") as self._fold:
            self._body = ui.label().classes("told")

    def update(self) -> None:
        """As it is now; nothing is sent where nothing changed."""
        piece = self._piece
        if self._last == (piece.text, piece.done):
            return
        self._last = (piece.text, piece.done)
        if piece.kind == "text":
            self._body.content = piece.text
            return
        self._fold.text = _title(piece)
        self._fold.set_visibility(bool(piece.text or piece.name))
        self._body.text = _laid_out(piece.text) if piece.kind == "call" and piece.done else piece.text


def _title(piece: Piece) -> str:
    if piece.kind == "thought":
        return "Thought" if piece.done else "Thinking ..."
    if piece.kind == "call":
        return f"Calls {piece.name}" if piece.done else f"Calls {piece.name} ..."
    return "A call that cannot be read"


def _laid_out(text: str) -> str:
    """JSON with a line a value; a call that was stopped is none."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except json.JSONDecodeError:
        return text
