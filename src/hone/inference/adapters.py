"""The adapters of an engine by the names that requests use: taken in while it serves, and let go when the last answer is drawn.

Does not know how answers differ by them: whoever holds them does, `hone.adapters.several` or a server.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from hone.adapters.folder import AdapterFolder, locate
from hone.errors import ModelError


class Held(Protocol):
    """What holds adapters by their names, and lets go of those that no answer uses."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def add(self, name: str, folder: AdapterFolder) -> None: ...

    def remove(self, name: str) -> None: ...

    def rows(self, names: Sequence[str]) -> AbstractContextManager[None]: ...


class Adapters:
    """`add`, `remove`, `using` an adapter for an answer, and `rows` of a forward. make: called once the first one comes.

    Whoever calls `add`, `tidy` or enters `rows` has what holds them for himself: there the adapters that nobody uses any more go.
    """

    def __init__(self, make: Callable[[], Held]):
        self._make = make
        self._held: Held | None = None
        self._lock = threading.Lock()
        self._users: Counter[str] = Counter()
        self._going: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """Those that a request may ask for."""
        held = self._held.names if self._held else ()
        return tuple(name for name in held if name not in self._going)

    def add(self, name: str, place: str, *, fits: Callable[[AdapterFolder], None] = lambda folder: None) -> None:
        """Take in the adapter of a folder or a hub's id. fits: raises ModelError for one that cannot be. Raises: ModelError."""
        self.tidy()
        if self._held is not None and name in self._held.names:
            going = " and is still used by an answer" if name in self._going else ""
            raise ModelError(f"there is an adapter {name!r} already{going}: choose another name, or let that one go first")
        folder = locate(place, key="lora_path")
        fits(folder)
        self._held = self._held or self._make()
        self._held.add(name, folder)

    def remove(self, name: str) -> None:
        """Let no other answer use it; it goes when the last one that does has ended. Raises: ModelError."""
        if name not in self.names:
            raise ModelError(f"there is no adapter {name!r} here; {', '.join(self.names) or 'none'} can be let go")
        with self._lock:
            self._going.add(name)

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """While it is held, the adapter stays. Raises: ModelError where it is not there."""
        if not name:
            yield
            return
        with self._lock:
            if name not in self.names:
                raise ModelError(f"there is no adapter {name!r} here any more")
            self._users[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._users[name] -= 1

    def rows(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """See Several.rows."""
        self.tidy()
        return nullcontext() if self._held is None else self._held.rows(names)

    def tidy(self) -> None:
        """Let those go that are to go and that no answer uses."""
        with self._lock:
            unused = [name for name in self._going if not self._users[name]]
            self._going.difference_update(unused)
        for name in unused:
            assert self._held is not None, "an adapter that was never taken in"
            self._held.remove(name)
