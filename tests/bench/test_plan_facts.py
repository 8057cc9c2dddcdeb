"""Jobs whose memory is publicly known fit by the plan too, and hone's own goals are met or missed as bench/RESULTS.md says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
GB, GIB = 10**9, 2**30
JOBS = {  # job of bench/plan_facts.py: what is kept, bytes that it is known to fit into, and of its weights alone
    ("llama-2-7b", 2048): ("kept", 24 * GB, 3.6),
    ("qwen2.5-72b", 1024): ("full", 48 * GB, 38.4),
}


@pytest.mark.parametrize(("name", "length"), JOBS)
def test_known_jobs_fit_by_the_plan(name, length, shared, monkeypatch):
    """In QLoRA. Of the weights: 4 bits with their scales, 16 of embeddings and head; 1 percent, as they are rounded here."""
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    import plan_facts

    kind, room, weights = JOBS[name, length]
    parts = plan_facts.parts_of(plan_facts.plan(shared / "model_configs", name, length, plan_facts.QLORA, kind))
    assert sum(parts) < room
    assert parts[0] == pytest.approx(weights * GIB, rel=0.01)
