"""Tool dialects: what is written is what is read, whatever the arguments; what is malformed stays text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hone.chat.dialects.listed import nine
from hone.chat.dialects.offer import prompt
from hone.chat.dialects.table import DIALECTS, find_dialect
from hone.chat.marks import Ink
from hone.chat.message import Text, ToolCall
from hone.chat.reading import Reading, same
from hone.errors import TemplateError

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
IDS = st.from_regex(r"[A-Za-z0-9]{9}", fullmatch=True)
CALLS = st.lists(st.builds(ToolCall, NAMES, st.dictionaries(WORDS, VALUES, max_size=4), IDS), min_size=1, max_size=3)


def _bare(calls):
    return [(call.name, dict(call.arguments)) for call in calls]


@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=60, deadline=None)
@given(calls=CALLS)
def test_calls_come_back(name, calls):
    ink = Ink()
    written = ink.plain(DIALECTS[name].write(calls, ink, False))
    read = DIALECTS[name].read(written, same)
    assert _bare(read) == _bare(calls)
    if name == "mistral":
        assert [call.id for call in read] == [call.id for call in calls]


@pytest.mark.parametrize("name", ["qwen", "default", "deepseek3", "glm4"])
@settings(max_examples=40, deadline=None)
@given(calls=CALLS, text=st.text("ab \n{}.:", min_size=1, max_size=12).filter(str.strip))
def test_text_before_calls_comes_back(name, calls, text):
    ink = Ink()
    dialect, lead = DIALECTS[name], "\n" if name == "glm4" else ""
    written = lead + ink.plain(ink.content(text) + dialect.write(calls, ink, True))
    first, *rest = Reading(dialect, lead).message(written).parts
    assert first == Text(text)
    assert _bare(rest) == _bare(calls)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qwen", 'so <tool_call>\n{"name": "f", "arguments": {"a": }}\n</tool_call> then'),
        ("qwen", '<tool_call>\n{"name": "f", "arguments": {}}'),
        ("qwen", '<tool_call>\n{"arguments": {}}\n</tool_call>'),
        ("llama3", '{"name": "f", "parameters": [1]}'),
        ("llama3", '{"name": "f", "parameters": {}} and more'),
        ("llama3", "[1, 2]"),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {}'),
        ("mistral", "[TOOL_CALLS] []"),
        ("glm4", "f\n{broken"),
        ("deepseek3", DIALECTS["deepseek3"].begin + "nothing"),
        ("default", "Action: f\nAction Input: soon"),
        ("default", "plain\n\nwords "),
    ],
)
def test_what_is_no_proper_call_stays_text(name, text):
    assert DIALECTS[name].read(text, same) == [Text(text)]


def test_one_broken_block_does_not_cost_the_good_one():
    good = '<tool_call>\n{"name": "f", "arguments": {"a": "</tool_call>"}}\n</tool_call>'
    parts = DIALECTS["qwen"].read("<tool_call>oops</tool_call>\n" + good, same)
    assert parts == [Text("<tool_call>oops</tool_call>"), ToolCall("f", {"a": "</tool_call>"})]


def test_ids_become_nine_characters():
    assert nine("abcdefghi", 0) == "abcdefghi"
    assert nine("", 3) == "call00003"
    assert len(nine("call_0123456789", 0)) == 9 and nine("call_a", 0) != nine("call_b", 0)


def test_tools_may_lack_their_wrapper_but_not_their_name():
    ink = Ink()
    bare, wrapped = {"name": "f"}, {"type": "function", "function": {"name": "f"}}
    assert ink.plain(prompt("qwen", [bare], ink)) == ink.plain(prompt("qwen", [wrapped], ink))
    with pytest.raises(TemplateError, match=r"tools\[0\]"):
        prompt("qwen", [{"title": "f"}], ink)
    with pytest.raises(TemplateError, match="unknown tool_format"):
        find_dialect("yaml")
