"""A reward model behind HTTP: what is asked, and every way its answer may be none, against a small server on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hone.errors import TrainingError
from hone.objectives.rewards.server import RewardServer
from tests.desk import Desk, Reply

Opener = Callable[[Callable[[int, Any], Reply]], Desk]


@pytest.fixture
def open_desk() -> Iterator[Opener]:
    """Opens desks, and closes them."""
    desks: list[Desk] = []

    def opened(reply: Callable[[int, Any], Reply]) -> Desk:
        desks.append(Desk(reply))
        return desks[-1]

    yield opened
    for desk in desks:
        desk.close()


def scores(*numbers: Any) -> bytes:
    return json.dumps({"object": "score.evaluation", "scores": numbers}).encode()


def ask(desk: Desk, *texts: str, retries: int = 0, seconds: float = 20) -> list[float]:
    return RewardServer(desk.url, seconds=seconds, retries=retries, pause=0.01)(texts)


def test_it_is_asked_as_llamafactory_asks(open_desk):
    desk = open_desk(lambda _, asked: (200, scores(*(len(text) for text in asked["messages"]))))
    assert ask(desk, "four", "<|im_end|>\n") == [4.0, 11.0]
    assert desk.asked == [{"model": "model", "messages": ["four", "<|im_end|>\n"]}]
    assert ask(desk) == [] and len(desk.asked) == 1


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((200, scores(1.0)), "answered 1 scores; .* each of 2 texts"),
        ((200, scores(1.0, float("nan"))), "scored nan, wanted a finite number; the text ends 'two'"),
        ((200, scores("1", 2)), "scored '1'"),
        ((200, scores(True, 2)), "scored True"),
        ((200, b'{"scores": 3}'), "answered 3; "),
        ((200, b"<html>no"), "answered b'<html>no'"),
        ((200, b"[1, 2]"), r"answered b'\[1, 2\]'"),
        ((404, b"no such route"), "answered 404 Not Found: no such route"),
    ],
)
def test_an_answer_that_is_none_ends_the_run_with_the_url(reply, said, open_desk):
    desk = open_desk(lambda *_: reply)
    with pytest.raises(TrainingError, match=said) as told:
        ask(desk, "one", "two", retries=3)
    assert desk.url in str(told.value) and len(desk.asked) == 1


def test_a_server_s_own_error_is_given_another_chance(open_desk):
    desk = open_desk(lambda number, _: (503, b"loading") if number < 3 else (200, scores(7)))
    assert ask(desk, "one", retries=2) == [7.0]
    with pytest.raises(TrainingError, match=r"answered 503 Service Unavailable: loading; it was asked 2 times"):
        ask(open_desk(lambda *_: (503, b"loading")), "one", retries=1)


def test_a_server_that_hangs_is_left(open_desk):
    desk = open_desk(lambda *_: (desk.release.wait(30), (200, scores(1)))[1])
    with pytest.raises(
        TrainingError, match=r"did not answer within 0.2 seconds \(reward_timeout\); it was asked 2 times"
    ) as told:
        ask(desk, "one", retries=1, seconds=0.2)
    assert desk.url in str(told.value)


def test_a_server_that_is_down_is_told(open_desk):
    desk = open_desk(lambda *_: (200, b""))
    desk.close()
    with pytest.raises(TrainingError, match=r"cannot be reached .*it was asked 2 times") as told:
        RewardServer(desk.url, seconds=5, retries=1, pause=0.01)(["one"])
    assert desk.url in str(told.value)
