"""Tool dialects: what is written is what is read, whatever the arguments and however it is cut; what is malformed stays text."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hone.chat.dialects.listed import nine
from hone.chat.dialects.named import DeepSeek3
from hone.chat.dialects.offer import prompt
from hone.chat.dialects.reader import Reader
from hone.chat.dialects.table import DIALECTS, find_dialect
from hone.chat.events import ArgumentsGrown, CallBegun, CallDropped, CallMade, TextGrown, parts_of
from hone.chat.marks import Ink
from hone.chat.message import Text, ToolCall
from hone.chat.reading import Reading, same
from hone.errors import TemplateError
from tests.chat.conftest import read

MARKERS = sorted({word for dialect in DIALECTS.values() for word in (*dialect.markers, dialect.closing) if word})
TRICKY = [
    "3", "-0.5", "1e5", "true", "True", "None", "null", '"x"', "'x'", "[1]", '{"a": 1}', "NaN", "", " ", "\n", "\n\n", "\u2028",
    "</parameter>", "\n</parameter>\n</function>\n</tool_call>", "</arg_value>", '<|"|>', "it's", 'say "x"', "\\", "\\n", "a\\'b",
    "{", "}", "]", "Action: f\nAction Input: {}", "<think>", "</think>", "```", "\U0001f600", *MARKERS,
]  # fmt: skip
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(TRICKY)
SCALARS = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
IDS = st.from_regex(r"[A-Za-z0-9]{9}", fullmatch=True)


HALVES = ['{"name": "f", ', '"arguments": {', "f(", "call:f{", "<function=f>", "[", "\n"]


def _values(words, keys):
    return st.recursive(
        SCALARS | words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=5
    )


def _calls(words, keys):
    """One or two calls of different functions."""
    arguments = st.dictionaries(keys, _values(words, keys), max_size=3)
    return st.lists(st.builds(ToolCall, NAMES, arguments, IDS), min_size=1, max_size=2, unique_by=lambda call: call.name)


CALLS, MILD = _calls(WORDS, WORDS), _calls(st.text("ab 3'\"\n\\{}[]:,=()\u00e9", max_size=12), NAMES)
BARE = ("qwen3_5", "seed_oss", "minimax2", "glm4_moe", "glm4_7", "hy3", "lfm2", "gemma4", "mimo_v2", "chatglm3", "minicpm4")
"""Dialects that write names or texts without quotes, and so cannot write everything."""

ALONE = ("llama3", "mistral", "mistral_tekken", "minicpm4")
"""Dialects without a place for text beside calls."""

HEADED = {"glm4": "\n", "glm4_0414": "\n", "chatglm3": "\n "}
"""Dialects that read the end of the answer's header, and drop it before text."""

SINGLE = ("gpt_oss",)
"""Dialects whose messages have one call."""


def schemas(calls):
    """A tool for every call whose schema says the types that the arguments have."""
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return [
        {"name": call.name, "parameters": {"properties": {key: {"type": kinds[type(v)]} for key, v in call.arguments.items()}}}
        for call in calls
    ]


def bare(calls):
    return [(call.name, dict(call.arguments)) for call in calls]


def fitting(name, calls):
    """As many of the calls as the dialect can say in one message."""
    return calls[:1] if name in SINGLE else calls


def written(name, calls, after_text=False):
    """What the dialect writes; a refusal counts as nothing to try, which only dialects without quotes may answer with."""
    ink = Ink()
    try:
        return ink.plain(DIALECTS[name].write(calls, ink, after_text))
    except TemplateError:
        assert name in BARE
        assume(False)


@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=25, deadline=None)
@given(calls=CALLS)
def test_calls_come_back(name, calls):
    calls = fitting(name, calls)
    found = read(DIALECTS[name], written(name, calls), same, schemas(calls))
    assert bare(found) == bare(calls)
    if name == "mistral":
        assert [call.id for call in found] == [call.id for call in calls]


@pytest.mark.parametrize("name", BARE)
@settings(max_examples=40, deadline=None)
@given(calls=MILD)
def test_calls_without_a_dialects_own_words_are_never_refused(name, calls):
    ink = Ink()
    said = ink.plain(DIALECTS[name].write(calls, ink, False))
    assert bare(read(DIALECTS[name], said, same, schemas(calls))) == bare(calls)


@pytest.mark.parametrize("name", [name for name in DIALECTS if name not in ALONE])
@settings(max_examples=20, deadline=None)
@given(calls=MILD, text=st.text("ab \n{}.:", min_size=1, max_size=12).filter(str.strip))
def test_text_before_calls_comes_back(name, calls, text):
    dialect, lead, calls = DIALECTS[name], HEADED.get(name, ""), fitting(name, calls)
    said = lead + text + written(name, calls, True)
    answer = Reading(dialect, lead).answer(same, schemas(calls))
    first, *rest = parts_of([*answer.feed(said), *answer.close()])
    assert first == Text(text)
    assert bare(rest) == bare(calls)


def pieces(text, cuts):
    """The text cut at places that `cuts` tell, one by one where there are no more."""
    while text:
        size = cuts.pop() if cuts else 1
        yield text[:size]
        text = text[size:]


@st.composite
def answers(draw, name):
    """Text, calls, broken calls and their markers in any order, cut off anywhere; and the tools."""
    calls = fitting(name, draw(MILD))
    dialect = DIALECTS[name]
    said = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["text", "calls", "broken", "marker"]))
        if kind == "text":
            said.append(draw(st.text('ab \n{}[]":,', max_size=10) | st.sampled_from(TRICKY)))
        elif kind == "marker":
            said.append(draw(st.sampled_from([*dialect.markers, dialect.closing])))
        else:
            ink = Ink()
            whole = ink.plain(dialect.write(calls, ink, False))
            at = draw(st.integers(0, len(whole)))
            said.append(whole if kind == "calls" else whole[:at] + draw(st.sampled_from(["", "x", "}", '"'])) + whole[at + 1 :])
    text = "".join(said)
    return text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text, schemas(calls)


@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=20, deadline=None)
@given(data=st.data(), cuts=st.lists(st.integers(1, 9), max_size=30))
def test_what_is_read_does_not_depend_on_how_it_comes(name, data, cuts):
    text, tools = data.draw(answers(name))
    reader = Reader(DIALECTS[name], same, tools)
    events = [event for piece in pieces(text, cuts) for event in reader.feed(piece)] + reader.close()
    assert (list(parts_of(events)) or [Text("")]) == read(DIALECTS[name], text, same, tools)
    assert_told_well(events)
    made = [event for event in events if isinstance(event, CallMade)]
    if not made and name not in HEADED:  # which drops its header before text
        assert "".join(event.text for event in events if isinstance(event, TextGrown)) == text


def assert_told_well(events):
    """Each call begins, grows to a JSON object that is its arguments, and is made or dropped; in that order."""
    grown, names, open_calls = {}, {}, set()
    for event in events:
        if isinstance(event, CallBegun):
            assert event.index == len(names)
            names[event.index], grown[event.index] = event.name, ""
            open_calls.add(event.index)
        elif isinstance(event, ArgumentsGrown):
            assert event.index in open_calls
            grown[event.index] += event.text
        elif isinstance(event, CallMade | CallDropped):
            open_calls.remove(event.index)
            if isinstance(event, CallMade):
                assert event.call.name == names[event.index]
                assert json.loads(grown[event.index]) == event.call.arguments
    assert not open_calls


@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(
        WORDS | st.sampled_from(['{"name": "f", ', '"arguments": {', "f(", "call:f{", "<function=f>", "[", "\n"]), max_size=8
    )
)
def test_any_text_can_be_read(name, parts):
    found = read(DIALECTS[name], "".join(parts), same)
    assert found
    if name not in HEADED and not any(isinstance(part, ToolCall) for part in found):
        assert "".join(part.text for part in found) == "".join(parts)


@pytest.mark.parametrize(
    ("name", "text", "malformed"),
    [
        ("qwen", '<tool_call>\n{"name": "f", "arguments": {}}', True),
        ("qwen", '<tool_call>\n{"arguments": {}}\n</tool_call>', True),
        ("llama3", '{"name": "f", "parameters": [1]}', True),
        ("llama3", '{"name": "f", "parameters": {}} and more', True),
        ("llama3", '{"name": "Ada", "age": 36}', False),
        ("llama3", "[1, 2]", False),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {}', True),
        ("mistral", "[TOOL_CALLS] []", True),
        ("glm4", "f\n{broken", True),
        ("deepseek3", DeepSeek3.begin + "nothing", True),
        ("default", "Action: f\nAction Input: soon", False),
        ("default", "plain\n\nwords ", False),
        ("qwen3_5", "<tool_call>\n<function=f>\n<parameter=a>\n1\n", True),
        ("gemma4", '<|tool_call>call:f{a:<|"|>x}<tool_call|>', True),
        ("internlm2", '<|action_start|><|plugin|>\n{"name": "f", "parameters": {}}', True),
        ("ernie", '<tool_call>\n{"name": 1}\n</tool_call>', True),
        ("hunyuan", '<tool_calls>[{"name": "f"', True),
        ("mimo_v2", "<tool_call>\n<function=f>\n<parameter=a>1\n", True),
        ("chatglm3", "f\n ```python\ntool_call(a='x'\n```", True),
        ("minicpm4", "<|tool_call_start|>\n```python\nf(a=1\n```\n<|tool_call_end|>", True),
        ("lfm2", "<|tool_call_start|>[f(a=]<|tool_call_end|>", True),
    ],
)
def test_what_is_no_proper_call_stays_text(name, text, malformed):
    assert read(DIALECTS[name], text, same) == [Text(text, malformed)]


def test_one_broken_block_does_not_cost_the_good_one():
    good = '<tool_call>\n{"name": "f", "arguments": {"a": "</tool_call>"}}\n</tool_call>'
    parts = read(DIALECTS["qwen"], "so <tool_call>oops</tool_call> then\n" + good, same)
    broken = Text("<tool_call>oops</tool_call>", malformed=True)
    assert parts == [Text("so "), broken, Text(" then"), ToolCall("f", {"a": "</tool_call>"})]


def test_calls_that_are_complete_stay_where_the_next_is_cut_off():
    parts = read(DIALECTS["mistral"], '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "argu', same)
    assert parts == [ToolCall("f", {"a": 1}), Text(', {"name": "g", "argu', malformed=True)]


def test_arguments_come_as_they_grow():
    reader = Reader(DIALECTS["qwen"], same)
    events = [
        reader.feed(piece)
        for piece in ("Hi \n<tool", '_call>\n{"name": "f", "arg', 'uments": {"a": "lo', 'ng"', "}}\n</tool_call>")
    ]
    assert events == [
        [TextGrown("Hi")],
        [TextGrown(" ")],
        [CallBegun(0, "f"), ArgumentsGrown(0, '{"a": "lo')],
        [ArgumentsGrown(0, 'ng"')],
        [ArgumentsGrown(0, "}"), CallMade(0, ToolCall("f", {"a": "long"}))],
    ]


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "3", "3"),
        ({"type": "integer"}, "3", 3),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "3", "3"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "3", 3),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"type": "object"}, "{'a': [True, None]}", {"a": [True, None]}),
        ({"type": "integer"}, "three", "three"),
        ({}, "3", 3),
        ({}, "True", True),
        ({}, '"x"', '"x"'),
        ({}, "x", "x"),
    ],
)
def test_the_schema_tells_the_type_of_a_bare_argument(schema, text, value):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": schema}}}}]
    said = f"<tool_call>\n<function=f>\n<parameter=a>\n{text}\n</parameter>\n</function>\n</tool_call>"
    assert read(DIALECTS["qwen3_5"], said, same, tools) == [ToolCall("f", {"a": value})]


def test_text_that_a_dialect_would_end_too_early_is_refused():
    with pytest.raises(TemplateError, match="holds the words that end one"):
        DIALECTS["qwen3_5"].write([ToolCall("f", {"a": "x\n</parameter>\n<parameter=b>\ny"})], Ink(), False)
    with pytest.raises(TemplateError, match="cannot write"):
        DIALECTS["lfm2"].write([ToolCall("f", {"a b": 1})], Ink(), False)


def test_ids_become_nine_characters():
    assert nine("abcdefghi", 0) == "abcdefghi"
    assert nine("", 3) == "call00003"
    assert len(nine("call_0123456789", 0)) == 9 and nine("call_a", 0) != nine("call_b", 0)


def test_tools_may_lack_their_wrapper_but_not_their_name():
    ink = Ink()
    bare_tool, wrapped = {"name": "f"}, {"type": "function", "function": {"name": "f"}}
    assert ink.plain(prompt("qwen", [bare_tool], ink)) == ink.plain(prompt("qwen", [wrapped], ink))
    with pytest.raises(TemplateError, match=r"tools\[0\]"):
        prompt("qwen", [{"title": "f"}], ink)
    with pytest.raises(TemplateError, match="unknown tool_format"):
        find_dialect("yaml")


def test_a_call_of_gpt_oss_is_read_in_all_three_spellings_of_its_header():
    wanted = ToolCall("f", {"a": 1})
    for head in (
        " to=functions.f<|channel|>commentary json",
        "<|channel|>commentary to=functions.f <|constrain|>json",
        " to=functions.f<|channel|>commentary <|constrain|>json",
    ):
        assert read(DIALECTS["gpt_oss"], head + '<|message|>{"a": 1}', same) == [wanted]


def test_more_than_one_call_of_gpt_oss_is_refused():
    with pytest.raises(TemplateError, match="one call a message, not 2"):
        DIALECTS["gpt_oss"].write([ToolCall("f", {}), ToolCall("g", {})], Ink(), False)
