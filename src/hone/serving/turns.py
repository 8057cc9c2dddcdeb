"""Turns: how many requests are answered at once, how many wait, and what a model's thread gives handed over to the event loop.

Does not know what is asked. All of Turns runs in the event loop; the model runs in threads.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from typing import TypeVar

from hone.serving.refusal import Refusal

T = TypeVar("T")
_DONE = object()
_MEMORY = 0.8
"""How much of the guess at an answer's seconds stays when another answer is done."""


class Turns:
    """`await turns.take()` ... `turns.leave(seconds)`: first come, first served. running, waiting: how many there are now."""

    def __init__(self, num_running: int, num_waiting: int):
        self._num_running, self._num_waiting = num_running, num_waiting
        self._line: deque[asyncio.Future[None]] = deque()
        self._seconds = 1.0
        self.running = 0

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    @property
    def wait(self) -> int:
        """Seconds, 1 or more, after which a turn may be free: a guess from the answers so far."""
        return max(1, math.ceil(self._seconds * (self.waiting + 1) / self._num_running))

    async def take(self) -> None:
        """Wait for a turn. Raises: Refusal 429 where too many wait already."""
        if self.running < self._num_running and not self._line:
            self.running += 1
            return
        if self.waiting >= self._num_waiting:
            raise Refusal(429, f"{self.waiting} requests wait already: try again later", code="queue_full", wait=self.wait)
        place = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._line.remove(place)
            else:  # the turn was given in the moment in which nobody wanted it any more
                self._pass_on()
            raise

    def leave(self, seconds: float) -> None:
        """Give the turn back after `seconds`."""
        self._seconds = _MEMORY * self._seconds + (1 - _MEMORY) * seconds
        self._pass_on()

    def _pass_on(self) -> None:
        while self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.running -= 1


async def taken_in_turn(make: Callable[[], Iterator[T]], turns: Turns, seconds: float) -> AsyncIterator[T]:
    """What `make()` gives, in a thread of its own once it is its turn; closing this closes that at its next item.

    Raises: Refusal 429, 503 or 504 where too many wait, or waiting or all of it takes more than `seconds`; and what it raises.
    """
    loop, end = asyncio.get_running_loop(), asyncio.get_running_loop().time() + seconds
    try:
        async with asyncio.timeout_at(end):
            await turns.take()
    except TimeoutError:
        raise Refusal(503, f"no turn was free within {seconds:g} seconds", code="timeout", wait=turns.wait) from None
    inbox: asyncio.Queue[object] = asyncio.Queue()
    left = threading.Event()
    threading.Thread(target=_work, args=(make, loop, inbox, left, turns), name="answer", daemon=True).start()
    try:
        while (item := await _next(inbox, end, seconds)) is not _DONE:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()


async def _next(inbox: asyncio.Queue, end: float, seconds: float) -> object:
    try:
        async with asyncio.timeout_at(end):
            return await inbox.get()
    except TimeoutError:
        raise Refusal(504, f"the answer took more than {seconds:g} seconds and was stopped", code="timeout") from None


def _work(
    make: Callable[[], Iterator[object]],
    loop: asyncio.AbstractEventLoop,
    inbox: asyncio.Queue,
    left: threading.Event,
    turns: Turns,
) -> None:
    begun = time.monotonic()

    def tell(function: Callable[..., object], item: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server was told twice to stop
            loop.call_soon_threadsafe(function, item)

    try:
        with closing(make()) as items:
            for item in items:
                if left.is_set():
                    break
                tell(inbox.put_nowait, item)
        tell(inbox.put_nowait, _DONE)
    except BaseException as fault:
        tell(inbox.put_nowait, fault)
    finally:
        tell(turns.leave, time.monotonic() - begun)
