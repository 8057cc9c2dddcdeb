"""The chat page: a conversation, its settings, and answers as they grow. Each visitor has one of their own, kept nowhere else.

Does not know the model, nor who may open it.
"""

from __future__ import annotations

import asyncio
import traceback
from contextlib import aclosing

from hone import log
from hone.chat.reading import message_of
from hone.errors import HoneError
from hone.inference.base import Answer
from hone.serving.desk import Desk
from hone.serving.media import MEGABYTE
from hone.serving.web import FastAPI
from hone.studio.panel import build_panel
from hone.studio.shown import ShownAnswer, show_question
from hone.studio.talk import Talk
from hone.studio.tray import Tray
from hone.studio.web import background_tasks, core, ui

SECONDS_UNSEEN = 0.08
"""What is new of an answer is shown that much later, together with what follows until then."""
ON_ENTER = "(e) => { if (!e.shiftKey && !e.isComposing) { e.preventDefault(); emit(); } }"
STYLE = """
.talk { height: calc(100vh - 10.5rem); overflow-y: auto; display: flex; flex-direction: column-reverse; }
.said { background: #eef2f7; border-radius: 1rem; padding: .6rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.body--dark .said { background: #2b3440; }
.answer { overflow-wrap: anywhere; }
.answer pre { background: rgba(128, 128, 128, .1); border-radius: .5rem; padding: .6rem .8rem; overflow-x: auto; }
.answer .q-item { min-height: 2rem; padding: .1rem .6rem; }
.answer .q-item__section--avatar { min-width: 0; padding-right: .5rem; }
.answer .q-item__section--avatar .q-icon { font-size: 1.1rem; opacity: .7; }
.answer .nicegui-expansion-content { padding: .2rem .8rem .6rem; }
.fold { border: 1px solid rgba(128, 128, 128, .3); border-radius: .6rem; }
.told { white-space: pre-wrap; overflow-wrap: anywhere; opacity: .8; font-size: .92em; }
.tray { flex-wrap: nowrap; overflow-x: auto; padding: 0 .5rem; }
.tray > * { flex: none; margin-top: .6rem; }
.q-layout:has(.tray > *) .talk { height: calc(100vh - 17.5rem); }
.small { height: 6rem; width: auto; max-width: 12rem; object-fit: cover; border-radius: .6rem; }
i.small { height: auto; background: rgba(128, 128, 128, .15); }
.note { font-size: .8rem; opacity: .6; }
"""


def mount_page(app: FastAPI, desk: Desk, root: str) -> None:
    """Put the page into the app under `root`."""

    @ui.page("/", title=f"{desk.served.name} - hone")
    def chat() -> None:
        ChatPage(desk).build()

    core.sio.eio.max_http_buffer_size = int(desk.terms.limits.api_max_body * MEGABYTE)
    ui.run_with(app, mount_path=root, title="hone", dark=None, show_welcome_message=False)


class ChatPage:
    """One visitor's page."""

    def __init__(self, desk: Desk):
        self._desk, self._talk = desk, Talk.begin(desk)
        self._work: asyncio.Task | None = None
        self._gone = False

    def build(self) -> None:
        """Lay it out."""
        ui.add_css(STYLE)
        ui.colors(primary="#3d5a80")
        ui.context.client.on_delete(self._leave)
        drawer = build_panel(self._desk, self._talk.wishes)
        with ui.header().classes("items-center q-py-xs min-h-0"):
            ui.label("hone").classes("text-lg font-bold")
            ui.label().bind_text_from(self._talk.wishes, "model").classes("opacity-70")
            ui.space()
            ui.button("New chat", icon="add", on_click=self._clear).props("flat color=white no-caps")
            ui.button(icon="tune", on_click=drawer.toggle).props("flat round color=white aria-label=Settings")
        with ui.element("div").classes("talk w-full"), ui.column().classes("w-full max-w-3xl mx-auto gap-3 q-pb-md") as self._log:
            self._hint = ui.label("Ask something. Nothing of a talk is kept: a reload begins a new one.").classes("note")
        with ui.footer().classes("bg-transparent q-pa-sm"):
            self._tray = Tray(self._desk, self._talk)
            self._build_box()

    def _build_box(self) -> None:
        with ui.row().classes("w-full max-w-3xl mx-auto items-end no-wrap gap-2"):
            self._box = ui.textarea(placeholder="Message").props("autogrow outlined dense rounded autofocus").classes("grow")
            self._box.props('input-style="max-height: 8rem"').on("keydown.enter", self._send, js_handler=ON_ENTER)
            self._tray.build_button(self._box)
            self._again = ui.button(icon="refresh", on_click=self._regenerate).props('flat round aria-label="Another answer"')
            self._again.tooltip("Another answer").set_visibility(False)
            self._go = ui.button(icon="arrow_upward", on_click=self._send).props("round aria-label=Send")
            self._stop = ui.button(icon="stop", on_click=self._halt).props("round color=negative aria-label=Stop")
            self._stop.set_visibility(False)

    def _send(self) -> None:
        text, calls = (self._box.value or "").strip(), self._talk.open_calls
        if not (text or (self._talk.attached and not calls)) or self._work is not None:
            return
        self._talk.say(text)
        self._box.value = ""
        self._tray.show()
        self._hint.set_visibility(False)
        with self._log:
            seen = self._talk.messages[-1].media
            question = show_question(text, f"Result of {calls[0].name}" if calls else "", lambda: self._tray.show_each(seen))
        if self._talk.open_calls:
            self._settle()
        else:
            self._begin(question)

    def _regenerate(self) -> None:
        if self._work is None and self._shown is not None:
            self._talk.again()
            self._shown.remove()
            self._begin(None)

    def _halt(self) -> None:
        if self._work is not None:
            self._work.cancel()

    def _clear(self) -> None:
        self._halt()
        self._talk.messages.clear()
        self._talk.attached.clear()
        self._tray.show()
        self._log.clear()
        self._shown = None
        with self._log:
            self._hint = ui.label("A new chat.").classes("note")
        self._settle()

    def _leave(self) -> None:
        self._gone = True
        self._halt()

    _shown: ShownAnswer | None = None

    def _begin(self, question: ui.element | None) -> None:
        """Ask the model. question: what is taken from the page again where it is not answered."""
        with self._log:
            self._shown = ShownAnswer()
        self._work = background_tasks.create(self._answer(self._shown, question), name="answer")
        self._settle()

    async def _answer(self, shown: ShownAnswer, question: ui.element | None) -> None:
        said, of_this = len(self._talk.messages), lambda: len(self._talk.messages) == said and self._shown is shown
        try:
            answer = await self._drawn(shown)
        except asyncio.CancelledError:
            if not self._gone and of_this():
                self._talk.hear(message_of(shown.events))
                shown.close("stopped")
        except Exception as fault:
            if not isinstance(fault, HoneError):
                log.failure("".join(traceback.format_exception(fault)))
            if of_this():
                known = isinstance(fault, HoneError)
                told = str(fault) if known else f"the server failed: {type(fault).__name__}; its log tells more"
                self._fail(shown, question, told)
        else:
            self._talk.hear(answer.message)
            shown.close(_note(answer))
        finally:
            self._work = None
            if not self._gone:
                self._settle()

    async def _drawn(self, shown: ShownAnswer) -> Answer:
        """Show the answer as it grows."""
        answer: Answer | None = None
        look: asyncio.TimerHandle | None = None
        try:
            async with aclosing(self._desk.answer(self._talk.request())) as deltas:
                async for delta in deltas:
                    shown.events += delta.events
                    answer = delta.answer
                    if look is None or look.when() <= asyncio.get_running_loop().time():
                        look = asyncio.get_running_loop().call_later(SECONDS_UNSEEN, shown.show)
        finally:
            if look is not None:
                look.cancel()
        assert answer is not None, "an engine's last Delta carries the answer"
        return answer

    def _fail(self, shown: ShownAnswer, question: ui.element | None, told: str) -> None:
        """The talk is as it was before; what was asked stands in the box again."""
        shown.remove()
        self._shown = None
        if question is not None:
            self._box.value = self._talk.take_back()
            self._tray.show()
            question.delete()
        with self._log:
            ui.notify(told, type="negative", multi_line=True, timeout=10_000, close_button=True)

    def _settle(self) -> None:
        """Buttons as the talk stands."""
        busy, calls = self._work is not None, self._talk.open_calls
        self._go.set_visibility(not busy)
        self._stop.set_visibility(busy)
        last = self._talk.messages[-1].role if self._talk.messages else ""
        self._again.set_visibility(not busy and last == "assistant" and self._shown is not None)
        self._box.props(f'placeholder="{f"What {calls[0].name} gave back" if calls and not busy else "Message"}"')


def _note(answer: Answer) -> str:
    """What is told below an answer."""
    ends = {"stop": "", "length": ", cut off: a larger length allows more", "context": ", cut off: the model can hold no more"}
    return f"{answer.num_tokens} tokens{ends[answer.finish]}"
