"""A chat template is a stranger's program: it renders text, and reaches no file, no attribute of Python and no network."""

from __future__ import annotations

import pytest

from hone.chat.codec import build_codec
from hone.config.chat import ChatConfig
from hone.errors import TemplateError
from hone.models.stand_in import stand_in_tokenizer
from tests.chat.conftest import said

ESCAPES = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class by filter": "{{ ''|attr('__class__') }}",
    "class by item": "{{ ''['__class__'] }}",
    "class by map": "{{ messages|map(attribute='__class__')|list }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "format map": "{{ '{x.__class__}'.format_map({'x': messages}) }}",
    "format of a filter": "{{ '{0.__class__}'|format(messages) }}{{ fail.__globals__ }}",
    "globals of a builtin": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "globals of lipsum": "{{ lipsum.__globals__['os'].system('id') }}",
    "globals of ours": "{{ raise_exception.__globals__ }}",
    "code of ours": "{{ strftime_now.__code__ }}",
    "self": "{{ self._TemplateReference__context.environment }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "undefined": "{{ nothing.__class__ }}",
    "macro": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "generator": "{{ (messages|map(attribute='role')).gi_frame.f_globals }}",
    "include": "{% include '/etc/passwd' %}",
    "include here": "{% include 'pyproject.toml' %}",
    "import": "{% import 'os' as os %}{{ os }}",
    "extends ours": "{% extends 'turns.jinja' %}",
    "changes the messages": "{{ messages.append(1) }}",
    "clears the messages": "{{ messages.clear() }}",
    "changes a message": "{{ messages[0].update({'content': 'x'}) }}",
    "endless range": "{{ range(10 ** 9)|list|length }}",
}
ANSWER = "{% if add_generation_prompt %}A{% else %}{{ messages[-1].content }}{{ eos_token }}{% endif %}"


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_strangers_template_gets_nowhere(escape, tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "pyproject.toml").write_text("secret")
    monkeypatch.chdir(tmp_path)
    tokenizer = stand_in_tokenizer("", "<|eos|>", [])
    tokenizer.chat_template = ESCAPES[escape] + ANSWER
    try:
        text = build_codec(ChatConfig(), tokenizer).template.plain(said("hi", "there"), False)
    except TemplateError:
        return
    # Where Jinja gives nothing for what it may not give, the text holds nothing.
    assert text.replace("{}", "").strip() in ("there<|eos|>", "Athere<|eos|>"), text


def test_a_template_may_use_what_templates_use():
    tokenizer = stand_in_tokenizer("", "<|eos|>", [])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content|trim|upper }}{{ eos_token }}{% endfor %}"
    assert build_codec(ChatConfig(), tokenizer).template.plain(said(" hi ", "there"), False) == "HI<|eos|>THERE<|eos|>"
