"""Ollama's Modelfile: the GGUF file, a template in Go's language and stop words, of the trained format.

Does not know any format: it looks at what the codec renders, message by message, as `template` does for Jinja.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from hone.chat.codec import Codec
from hone.chat.message import Conversation, message
from hone.chat.template import adds_bos
from hone.export.calls import Calls, Thoughts, Tools, calls_of, thoughts_of, tools_of
from hone.export.template import Around, around, renders_alike, written_template

MODELFILE = "Modelfile"


@dataclass(frozen=True)
class Modelfile:
    """text: the file. said: for people, what of the format is in it."""

    text: str
    said: str


def write_modelfile(codec: Codec, file: str) -> Modelfile:
    """The Modelfile of the GGUF file `file`.

    A Jinja template of the same pieces is held against the codec first. Where a message changes its neighbours' pieces none is
    made: Ollama then has the Jinja in the file alone.
    """
    pieces, tried = around(codec), written_template(codec)
    head = f"FROM ./{file}\n"
    stops = "".join(f"PARAMETER stop {_quoted(word)}\n" for word in codec.template.stop if word in codec.control)
    if pieces is None or tried is None or not renders_alike(codec, codec.tokenizer, tried, prompts_alone=True):
        return Modelfile(head + stops, "Modelfile without a template: this format is not made of pieces around each message")
    found = Pieces(pieces, tools_of(codec), calls_of(codec, pieces), thoughts_of(codec, pieces))
    lines = [head, f'TEMPLATE """{go_template(found, _bos(codec))}"""\n', stops]
    return Modelfile("".join(lines), f"Modelfile with template and stop words; {_knows(found)}{_trimmed(codec)}")


@dataclass(frozen=True)
class Pieces:
    """What a format puts around everything that it knows. With one of tools and calls None, both are left out."""

    around: Around
    tools: Tools | None = None
    calls: Calls | None = None
    thoughts: Thoughts | None = None

    @property
    def knows_tools(self) -> bool:
        """Whether tools, calls and results are all made of pieces."""
        return self.tools is not None and self.calls is not None


def _knows(found: Pieces) -> str:
    known = [word for word, one in (("tools", found.knows_tools), ("thoughts", found.thoughts is not None)) if one]
    lacking = [word for word in ("tools", "thoughts") if word not in known]
    said = [
        *([f"it knows {' and '.join(known)}"] if known else []),
        *([f"it knows no {' and no '.join(lacking)}"] if lacking else []),
    ]
    return ", ".join(said)


def go_template(found: Pieces, bos: str) -> str:
    """The pieces in the language of Go's text/template. bos: a token that Ollama puts before a text itself.

    Ollama looks for the words around .ToolCalls and .Thinking in the template to read calls and thoughts out of answers, which is
    why pieces stand in it as plain text wherever they can.
    """
    return (
        '{{ $last := "" }}{{ $question := -1 }}{{ range $i, $m := .Messages }}'
        + '{{ if eq .Role "user" }}{{ $question = $i }}{{ end }}{{ end }}'
        + _opening(found, bos)
        + "{{ range $i, $m := .Messages }}"
        + '{{ if eq .Role "user" }}{{ if eq $last "assistant" }}' + _put(found.around.stop + found.around.to_question)
        + "{{ end }}{{ .Content }}" + _answer(found) + _results(found)
        + "{{ end }}{{ $last = .Role }}{{ end }}"
        + '{{ if eq $last "user" }}' + _put(found.around.to_prompt)
        + ('{{ else if eq $last "tool" }}' + _put(found.calls.to_prompt) if found.knows_tools and found.calls else "")
        + "{{ end }}"
    )  # fmt: skip


def _opening(found: Pieces, bos: str) -> str:
    """What stands before the first question: a system prompt, tools, both, or neither."""
    pieces, tools = found.around, found.tools
    ruled = _put(pieces.rule_head.removeprefix(bos)) + "{{ $first.Content }}" + _put(pieces.rule_tail)
    plain = _put(pieces.head.removeprefix(bos))
    if found.knows_tools and tools:
        one = '{"type": "function", "function": {{ .Function }}}' if tools.whole else "{{ .Function }}"
        listed = (
            "{{ range $i, $t := .Tools }}{{ if $i }}" + _put(tools.between) + "{{ end }}" + one + "{{ end }}" + _put(tools.tail)
        )
        head = _put(tools.rule_head.removeprefix(bos)) + "{{ $first.Content }}" + _put(tools.rule_tail)
        ruled = "{{ if .Tools }}" + head + listed + "{{ else }}" + ruled + "{{ end }}"
        plain = "{{ if .Tools }}" + _put(tools.head.removeprefix(bos)) + listed + "{{ else }}" + plain + "{{ end }}"
    return '{{ $first := index .Messages 0 }}{{ if eq $first.Role "system" }}' + ruled + "{{ else }}" + plain + "{{ end }}"


def _answer(found: Pieces) -> str:
    calls, thoughts = found.calls, found.thoughts
    parts = '{{ else if eq .Role "assistant" }}{{ if eq $last "user" }}' + _put(found.around.to_answer)
    if found.knows_tools and calls:
        parts += '{{ else if eq $last "tool" }}' + _put(calls.to_answer)
    parts += "{{ end }}"
    if thoughts:
        when = ".Thinking" if thoughts.always else "and .Thinking (gt $i $question)"
        parts += "{{ if " + when + " }}" + _put(thoughts.head) + "{{ .Thinking }}" + _put(thoughts.tail) + "{{ end }}"
    parts += "{{ .Content }}"
    if found.knows_tools and calls:
        parts += (
            "{{ if .ToolCalls }}{{ if .Content }}" + _put(calls.glue) + "{{ end }}{{ range $j, $c := .ToolCalls }}{{ if not $j }}"
            + _put(calls.head) + "{{ else }}" + _put(calls.next) + "{{ end }}{{ .Function.Name }}" + _put(calls.middle)
            + "{{ .Function.Arguments }}{{ end }}" + _put(calls.tail) + "{{ end }}"
        )  # fmt: skip
    return parts


def _results(found: Pieces) -> str:
    if not (found.knows_tools and found.calls):
        return ""
    first = _put(found.around.stop + found.calls.result)
    return (
        '{{ else if eq .Role "tool" }}{{ if eq $last "assistant" }}'
        + first
        + "{{ else }}"
        + _put(found.calls.more)
        + "{{ end }}{{ .Content }}"
    )


def _put(text: str) -> str:
    """Go's way to write `text` as it is."""
    plain = "{{" not in text and '"""' not in text and not text.endswith("{")
    return text if plain else "{{ " + _quoted(text) + " }}"


def _quoted(text: str) -> str:
    """A string of Go, and of a Modelfile: JSON's escapes are among Go's."""
    return json.dumps(text, ensure_ascii=False)


def _trimmed(codec: Codec) -> str:
    """Word of a format that cuts white space off texts, which Ollama's templates cannot."""
    asked = Conversation((message("user", "Qaaq  "),))
    kept = "Qaaq  " in codec.template.render(asked, prompt=True).text
    return "" if kept else ", and leaves the white space at the ends of texts, which this format cuts off"


def _bos(codec: Codec) -> str:
    return codec.tokenizer.bos_token if adds_bos(codec.tokenizer) else ""
