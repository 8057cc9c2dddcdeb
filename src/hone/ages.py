"""Ages: since when what others show of themselves has stood as it is, by this process's own monotonic clock.

Does not know how it is shown (a file, a counter in a store, a sign) nor what age is too much. Clocks of machines need not agree.
"""

from __future__ import annotations

import time
from collections.abc import Hashable


class Ages:
    """`ages.of(rank, beats)` with what is shown now; whoever shows the same for too long is dead, stuck or cut off."""

    def __init__(self) -> None:
        self._seen = dict[Hashable, tuple[object, float]]()

    def of(self, whom: Hashable, shown: object) -> float:
        """Seconds since `shown` was first seen of `whom`, 0 where it was something else until now."""
        now = time.monotonic()
        if whom not in self._seen or self._seen[whom][0] != shown:
            self._seen[whom] = (shown, now)
        return now - self._seen[whom][1]
