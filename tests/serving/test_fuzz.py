"""Whatever its own OpenAPI document allows, and what it does not, the server answers as it documents, and never with 500."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from hone.serving.desk import Served, Vectors
from tests.serving.servers import NAME, Scripted, live

schemathesis = pytest.importorskip("schemathesis")


def test_its_own_document_finds_no_fault(codec):
    served = Served(
        NAME,
        engine=Scripted(codec),
        embed=lambda texts, _: Vectors([[0.5]] * len(texts), 1),
        score=lambda texts, _: [0.5] * len(texts),
    )
    with live(served, api_max_waiting=1) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        seen = set()
        for found in schema.get_all_operations():
            operation = found.ok()
            modes = schemathesis.GenerationMode if operation.body else [schemathesis.GenerationMode.POSITIVE]
            for mode in modes:
                seen |= {(operation.path, *_statuses(operation, mode, server.url))}
        assert {path for path, *_ in seen} == set(schema.raw_schema["paths"])
        assert {status for _, *statuses in seen for status in statuses} >= {200, 400, 404}


def _statuses(operation, mode, url):
    """The statuses of a few requests of an operation."""
    statuses = set()

    @settings(max_examples=3, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        answer = case.call(base_url=url)
        assert answer.status_code < 500 and str(answer.status_code) in {*operation.definition.raw["responses"], "405"}
        # What it answers is what its document says: a stream of events is the one answer that is no JSON object of its shape.
        if not answer.headers["content-type"][0].startswith(("text/event-stream", "text/plain")):
            operation.validate_response(answer)
        statuses.add(answer.status_code)

    ask()
    return statuses
