"""The adapters of an engine by the names that requests use: taken in while it serves, and let go when the last answer is drawn.

Does not know how rows differ by them, which `hone.adapters.several` does.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn

from hone.adapters.folder import locate
from hone.adapters.several import Several
from hone.errors import ModelError


class Adapters:
    """`add`, `remove`, `using` an adapter for an answer, and `rows` of a forward.

    Whoever calls `add` or enters `rows` has the model for himself: there the adapters that nobody uses any more go.
    """

    def __init__(self, module: nn.Module, base_name: str):
        self._module, self._base_name = module, base_name
        self._several: Several | None = None
        self._lock = threading.Lock()
        self._users: Counter[str] = Counter()
        self._going: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """Those that a request may ask for."""
        held = self._several.names if self._several else ()
        return tuple(name for name in held if name not in self._going)

    def add(self, name: str, place: str) -> None:
        """Take in the adapter of a folder or a hub's id. Raises: ModelError."""
        self._tidy()
        if self._several is not None and name in self._several.names:
            going = " and is still used by an answer" if name in self._going else ""
            raise ModelError(f"there is an adapter {name!r} already{going}: choose another name, or let that one go first")
        folder = locate(place, key="lora_path")
        self._several = self._several or Several(self._module, self._base_name)
        self._several.add(name, folder)

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
        self._tidy()
        return nullcontext() if self._several is None else self._several.rows(names)

    def _tidy(self) -> None:
        with self._lock:
            unused = [name for name in self._going if not self._users[name]]
            self._going.difference_update(unused)
        for name in unused:
            assert self._several is not None, "an adapter that was never taken in"
            self._several.remove(name)
