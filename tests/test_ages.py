"""An age begins anew with whatever is shown anew, and nobody's depends on another's."""

from __future__ import annotations

import pytest

from hone import ages


def test_an_age_is_that_of_what_is_shown(monkeypatch: pytest.MonkeyPatch):
    now = iter([10.0, 12.0, 13.0, 15.5, 16.0])
    monkeypatch.setattr(ages.time, "monotonic", lambda: next(now))
    seen = ages.Ages()
    assert [seen.of(1, "a"), seen.of(1, "a"), seen.of(2, "a"), seen.of(1, "a"), seen.of(1, "b")] == [0, 2, 0, 5.5, 0]
