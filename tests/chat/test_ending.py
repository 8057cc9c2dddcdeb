"""Where an answer ends before the model does: stop texts against a plain search, however the text comes in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hone.chat.ending import Ending
from hone.chat.events import CallBegun, CallMade, TextGrown, ThoughtGrown, parts_of
from hone.chat.message import Text, Think, ToolCall

LETTERS = st.text("ab", max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3).map(tuple)


def said(events) -> str:
    return "".join(event.text for event in events)


@given(pieces=st.lists(LETTERS, max_size=6), stop=STOPS)
def test_it_is_what_a_search_of_the_whole_text_finds(pieces, stop):
    text = "".join(pieces)
    ends = [(text.find(word) + len(word), text.find(word)) for word in stop if word in text]
    wanted = text[: min(ends)[1]] if ends else text
    ending, found = Ending(stop), ""
    for piece in pieces:
        found += said(ending.feed([TextGrown(piece)]))
        assert wanted.startswith(found), "what was given is never taken back"
        held = text[: ending.fed][len(found) :] if not ending.ended else ""
        assert not held or any(word.startswith(held) for word in stop), "no more is held back than may begin a stop text"
    assert ending.ended == bool(ends)
    assert found + said(ending.close()) == wanted and ending.given == len(wanted)


def test_thoughts_and_calls_do_not_end_it_and_divide_what_is_said():
    call = ToolCall("f", {"x": "stop"})
    events = [ThoughtGrown("stop"), TextGrown("st"), CallBegun(0, "f"), CallMade(0, call), TextGrown("op"), TextGrown("stop it")]
    ending = Ending(("stop",))
    found = [one for event in events for one in ending.feed([event])]
    assert ending.ended and parts_of(found) == (Think("stop"), Text("st"), call, Text("op"))
    assert ending.feed([TextGrown("more")]) == [] and ending.close() == []


def test_the_first_call_ends_it_where_one_is_wanted():
    events = [CallBegun(0, "f"), CallMade(0, ToolCall("f", {})), TextGrown("more"), CallBegun(1, "g")]
    ending = Ending(one_call=True)
    assert ending.feed(events) == events[:2] and ending.ended


def test_malformed_text_stays_malformed():
    ending = Ending(("xyz",))
    assert [*ending.feed([TextGrown("ax", True), TextGrown("yb")])] == [
        TextGrown("a", True),
        TextGrown("x", True),
        TextGrown("yb"),
    ]
