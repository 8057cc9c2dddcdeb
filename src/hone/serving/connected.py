"""Connected: work for a client that may leave at any time, and is then not done to its end.

Does not know the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hone.serving.web import Request as Http

T = TypeVar("T")


class Gone(Exception):
    """The client has left."""


async def while_connected(http: Http, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives; it is cancelled when the client leaves. Raises: Gone."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(_gone(http))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise Gone
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _gone(http: Http) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
