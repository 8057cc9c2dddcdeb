"""What a form fills in is what the template itself would write, for every row of the table and words of every kind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hone.chat.dialects.table import find_dialect
from hone.chat.forms import form_of
from hone.chat.message import Conversation, Text, Think, ToolResult, message
from hone.chat.probes import probes
from hone.chat.survey import tokens_of
from hone.chat.table import rows
from hone.chat.template import NamedTemplate
from hone.chat.view import Thinking
from hone.errors import TemplateError
from tests.chat.conftest import said

ODD = ("", " a", "a\n", "<think>\nb\n</think>\n\nc", "\ue0000\ue000", "\0c0\0", "é", "half \ud800")
SYSTEM = Conversation((message("system", "Be brief."), *said("Hi", "Yes", "And?", "No").messages))
MUTED = replace(SYSTEM, messages=tuple(replace(one, train=False) for one in SYSTEM.messages[:3]) + SYSTEM.messages[3:])
PROBES = [probe.conversation for probe in probes() if form_of(probe.conversation)]
TALKS = [*PROBES, SYSTEM, MUTED, said("Hi"), said("Hi", "a", "b"), said("a", "c", "b")]


def template_of(name: str, enable: bool | None) -> NamedTemplate:
    row = rows()[name]
    words, eos = frozenset(tokens_of(row)), row.eos or "</s>"
    return NamedTemplate(row, find_dialect(row.dialect), Thinking(enable), row.system, row.bos or "", row.bos or "", eos, words)


def written(render, talk: Conversation, prompt: bool):
    """Segments and contents, or what is told."""
    try:
        rendered = render(talk, prompt=prompt)
    except TemplateError as error:
        return str(error)
    return rendered.outline.segments, list(rendered.contents)


@pytest.mark.parametrize("enable", [None, True, False])
def test_every_row_writes_forms_as_itself(enable):
    odd = [said(*(words if place == number else "ok" for place in range(4))) for words in ODD for number in range(4)]
    for name in (name for name, row in rows().items() if enable is True or row.thinking != "none"):
        template = template_of(name, enable)
        ends = [said("Hi", f"a{end}") for end in template.stop[:1]]
        for talk in [*TALKS, *ends, *(odd if name in ("llama2", "qwen3", "llama3", "glm4") else ())]:
            for prompt in (False, True):
                assert written(template.render, talk, prompt) == written(template._written, talk, prompt), (name, talk)


def test_a_form_is_written_once():
    template, calls = template_of("llama2", True), []
    template._forms._render = lambda talk, prompt: calls.append(talk) or template._written(talk, prompt)
    found = [template.render(said(f"ask {number}", f"say {number}")) for number in range(9)]
    assert len(calls) == 1 and len({id(one.outline) for one in found}) == 1
    assert found[8].text == template._written(said("ask 8", "say 8"), False).text


def test_what_is_more_than_words_has_no_form():
    assert form_of(said("a", "b")) == (("user", None, True), ("assistant", None, True))
    assert form_of(said("a", "")) == (("user", None, True), ("assistant", None, False))
    assert all(form_of(said("a", words)) is None for words in (" b", "b\n", "x</think>b", "\ud800"))
    (first, last) = said("a", "b").messages
    for parts in ((Think("x"), Text("b")), (Text("b"), Text("c")), (ToolResult("b"),), ()):
        assert form_of(Conversation((first, replace(last, parts=parts)))) is None
    assert form_of(Conversation((first, replace(last, role="tool")))) is None
    assert form_of(Conversation((first, last), ({"name": "f"},))) is None
