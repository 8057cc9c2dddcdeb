"""Tray: files that go with the next question: a button, a place to drop or paste them, small pictures that can be taken out.

Knows the door that reads them, and no model.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable

from hone.chat.message import Image, Media
from hone.errors import HoneError
from hone.serving.desk import Desk
from hone.serving.media import MEGABYTE
from hone.serving.sniff import WORDS, form_of, preview
from hone.studio.talk import Talk
from hone.studio.web import events, ui

ICONS = {"audio": "audiotrack", "video": "movie", "image": "image"}
EDGE = 160
"""Pixels of a small picture's longer side."""
ENDINGS = {"image": ".png,.jpg,.jpeg,.webp,.gif,.bmp", "audio": ".wav,.mp3,.flac,.ogg", "video": ".mp4,.webm,.mkv,.avi,.mov"}
GIVEN = """(e) => {{
    const files = e.{source}?.files;
    if (files?.length) {{ e.preventDefault(); runMethod({id}, "addFiles", [files]); }}
}}"""


class Tray:
    """Over the box; `show()` after the talk has changed what is attached."""

    def __init__(self, desk: Desk, talk: Talk):
        self._desk, self._talk = desk, talk
        self._takes = sorted(desk.media.takes)
        self._small: dict[Media, str] = {}
        self._row = ui.row().classes("tray w-full max-w-3xl mx-auto gap-3")
        if self._takes:
            options = {
                "multiple": True,
                "auto_upload": True,
                "max_total_size": int(desk.terms.limits.api_max_media_size * MEGABYTE),
            }
            self._upload = ui.upload(on_multi_upload=self._take, on_rejected=self._reject, **options).style("display: none")
            self._upload.on("failed", lambda: self._tell("the files could not be brought to the server"))
            self._upload.props(f'accept="{",".join(ENDINGS[kind] for kind in self._takes)}"')

    def build_button(self, box: ui.element) -> None:
        """The button, where the model takes anything. box: what files may be pasted into and dropped on."""
        if not self._takes:
            return
        told = f"Add {' or '.join(WORDS[kind] for kind in reversed(self._takes))}"
        button = ui.button(icon="add_photo_alternate" if self._takes == ["image"] else "attach_file")
        button.props(f'flat round aria-label="{told}"').tooltip(told)
        button.on("click", js_handler=f'() => runMethod({self._upload.id}, "pickFiles", [])')
        for event, source in (("paste", "clipboardData"), ("drop", "dataTransfer")):
            box.on(event, js_handler=GIVEN.format(source=source, id=self._upload.id))
        box.on("dragover", js_handler="(e) => e.preventDefault()")

    def show(self) -> None:
        """What is attached now."""
        self._row.clear()
        with self._row:
            for media in self._talk.attached:
                with ui.element("div").classes("relative"):
                    self._show_small(media)
                    out = ui.button(icon="close", on_click=lambda media=media: self._put_out(media))
                    out.props('round size="xs" color="grey-8" aria-label="Take it out"').classes("absolute -top-2 -right-2")

    def show_each(self, seen: Iterable[Media]) -> None:
        """Files that were said."""
        for media in seen:
            self._show_small(media)

    def _show_small(self, media: Media) -> None:
        if media in self._small:
            ui.element("img").props(f'src="{self._small[media]}" alt="{media.kind}"').classes("small")
        else:
            ui.icon(ICONS[media.kind], size="2.5rem").classes("small q-pa-sm")

    async def _take(self, event: events.MultiUploadEventArguments) -> None:
        """Files that were chosen together, in their order."""
        for file in event.files:
            try:
                await self._attach(await file.read())
            except HoneError as fault:
                self._tell(f"{file.name[:80]}: {fault}")
        self._upload.reset()
        self.show()

    async def _attach(self, data: bytes) -> None:
        media = await asyncio.to_thread(self._desk.media.check, form_of(data)[0] or self._takes[0], data)
        if isinstance(media, Image):
            small = await asyncio.to_thread(preview, data, EDGE)
            self._small[media] = f"data:image/jpeg;base64,{base64.b64encode(small).decode()}"
        self._talk.attach(media)

    def _put_out(self, media: Media) -> None:
        self._talk.attached.remove(media)
        self.show()

    def _reject(self) -> None:
        most = self._desk.terms.limits.api_max_media_size
        self._tell(
            f"only {' and '.join(WORDS[kind] for kind in self._takes)} of up to {most:g} MB can be added (api_max_media_size)"
        )

    def _tell(self, told: str) -> None:
        with self._row:
            ui.notify(told, type="negative", multi_line=True, timeout=10_000, close_button=True)
