"""Media: the pictures, films and sounds of a request, from its body, from the open Internet, or from the one folder.

Each is counted, bounded and known by its own bytes before the model's turn. Does not know what a model makes of them.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hone.chat.message import Media
from hone.config.api import ApiConfig
from hone.serving.fetch import Fetcher, too_large
from hone.serving.metrics import Metrics
from hone.serving.protocol import ChatRequest, MediaPart, SoundPart, UrlPart
from hone.serving.refusal import Refusal
from hone.serving.sniff import recognise

MEGABYTE = 1_000_000
SCHEMES = {"none": (), "https": ("https",), "http": ("https", "http")}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


class MediaDoor:
    """`await door.read(asked)`; one for each app. takes: kinds that the model takes."""

    def __init__(self, limits: ApiConfig, takes: frozenset[str], metrics: Metrics, fetcher: Fetcher | None = None):
        self._limits, self.takes, self._metrics = limits, takes, metrics
        self._fetcher = fetcher or Fetcher(SCHEMES[limits.api_media_urls])
        self._num_reading = 0

    async def read(self, asked: ChatRequest) -> dict[str, Media]:
        """Every medium of a chat by its place ("messages[0].content[1]"). Raises: Refusal that names the place."""
        found = {
            f"messages[{number}].content[{index}]": part
            for number, message in enumerate(asked.messages)
            if isinstance(message.content, list)
            for index, part in enumerate(message.content)
            if isinstance(part, MediaPart)
        }
        if not found:
            return {}
        if self._num_reading > self._limits.api_max_waiting:
            told = "too many requests have their pictures, films and sounds read already: try again later"
            raise Refusal(429, told, code="queue_full", wait=1)
        self._num_reading += 1
        try:
            return await self._read(found)
        finally:
            self._num_reading -= 1

    def check(self, kind: str, data: bytes) -> Media:
        """A file that a page was handed. Raises: Refusal."""
        most = int(self._limits.api_max_media_size * MEGABYTE)
        if len(data) > most:
            raise too_large(most)
        return recognise(kind, data, max_pixels=self._limits.api_max_pixels)

    async def _read(self, found: dict[str, MediaPart]) -> dict[str, Media]:
        loop, read = asyncio.get_running_loop(), {}
        left = _Left(int(self._limits.api_max_media_size * MEGABYTE), loop.time() + self._limits.api_media_timeout)
        for place, part in found.items():
            try:
                self._require(part.kind, len(found))
                data = await self._bytes(part, left)
                left.num_bytes -= len(data)
                pixels, said = self._limits.api_max_pixels, part.input_audio.format if isinstance(part, SoundPart) else ""
                read[place] = await asyncio.to_thread(recognise, part.kind, data, max_pixels=pixels, said=said)
            except Refusal as no:
                self._metrics.add("hone_media_refused_total", kind=part.kind, reason=no.code)
                raise Refusal(no.status, f"{place}: {no}", param=place, code=no.code) from no
            self._metrics.add("hone_media_read_total", kind=part.kind)
        return read

    def _require(self, kind: str, number: int) -> None:
        if kind not in self.takes:
            takes = " and ".join(("text", *sorted(self.takes)))
            raise Refusal(400, f"this server's model takes {takes}, and no {kind}", code="media_not_taken")
        if number > self._limits.api_max_media:
            most = self._limits.api_max_media
            raise Refusal(
                400, f"it is one of {number}, and {most} are read in one request (api_max_media)", code="media_too_many"
            )

    async def _bytes(self, part: SoundPart | UrlPart, left: _Left) -> bytes:
        if isinstance(part, SoundPart):
            return _decoded(part.input_audio.data, left.num_bytes)
        url = part.url
        named = _SCHEME.match(url)
        scheme = named.group(1).lower() if named else ""
        if scheme == "data":
            return _unpacked(url, left.num_bytes)
        if scheme in ("", "file"):
            return await asyncio.to_thread(_opened, self._limits.api_media_folder, url, left.num_bytes)
        return await self._fetcher.fetch(url, most=left.num_bytes, seconds=left.until - asyncio.get_running_loop().time())


@dataclass
class _Left:
    """What one request may still bring, and until when of the loop's clock."""

    num_bytes: int
    until: float


def _unpacked(url: str, most: int) -> bytes:
    head, comma, text = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise Refusal(400, "a data: URL reads data:image/png;base64,...", code="media_unreadable")
    return _decoded(text, most)


def _decoded(text: str, most: int) -> bytes:
    """Bytes of base64; what is too long is not decoded."""
    if len(text) // 4 * 3 - 2 > most:
        raise too_large(most)
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as fault:  # letters beyond ASCII too
        raise Refusal(400, "it is no base64", code="media_unreadable") from fault
    if len(data) > most:
        raise too_large(most)
    return data


def _opened(folder: str | None, url: str, most: int) -> bytes:
    """A file under the folder, by its path from there or from the root. One sentence for all that is not to be had."""
    if folder is None:
        raise Refusal(400, "files of this server are not opened (api_media_folder)", code="media_file")
    path = url
    if url[:5].lower() == "file:":
        parts = urlsplit(url)
        path = unquote(parts.path) if parts.netloc in ("", "localhost") and not parts.query else ""
    try:
        home = Path(folder).resolve(strict=True)
        place = (home / path).resolve(strict=True)
        with os.fdopen(_descriptor(home, place), "rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError, RuntimeError) as fault:  # not there, no permission, a zero byte, links in a circle
        raise Refusal(400, "there is no such file under this server's api_media_folder", code="media_file") from fault
    if len(data) > most:
        raise too_large(most)
    return data


def _descriptor(home: Path, place: Path) -> int:
    """The open file, reached from `home` step by step without following a link: nobody can put one there meanwhile.

    Raises: OSError, ValueError where it is outside, or no ordinary file.
    """
    *folders, name = place.relative_to(home).parts or ("",)
    at = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    for step in folders:
        at = _step(at, step, os.O_DIRECTORY)
    at = _step(at, name, os.O_NONBLOCK)  # a pipe would make it wait
    if not stat.S_ISREG(os.fstat(at).st_mode):
        os.close(at)
        raise ValueError("no ordinary file")
    return at


def _step(at: int, name: str, flag: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | flag, dir_fd=at)
    finally:
        os.close(at)
