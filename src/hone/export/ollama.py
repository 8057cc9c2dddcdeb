"""Ollama's Modelfile: the GGUF file, a template in Go's language and stop words, of the trained format.

Does not know any format: it looks at what the codec renders, message by message, as `template` does for Jinja.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from hone.chat.codec import Codec
from hone.chat.message import Conversation, message
from hone.chat.template import adds_bos
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
    if pieces is None or tried is None or not renders_alike(codec, codec.tokenizer, tried):
        return Modelfile(head + stops, "Modelfile without a template: this format is not made of pieces around each message")
    lines = [head, f'TEMPLATE """{go_template(pieces, _bos(codec))}"""\n', stops]
    return Modelfile("".join(lines), f"Modelfile with template and stop words; it knows no tools{_trimmed(codec)}")


def go_template(pieces: Around, bos: str) -> str:
    """The pieces in the language of Go's text/template. bos: a token that Ollama puts before a text itself."""
    first = _put(pieces.head.removeprefix(bos))
    ruled = _put(pieces.rule_head.removeprefix(bos)) + "{{ $first.Content }}" + _put(pieces.rule_tail)
    return (
        "{{- $first := index .Messages 0 }}"
        '{{- if eq $first.Role "system" }}' + ruled + "{{- else }}" + first + "{{- end }}"
        "{{- range $i, $m := .Messages }}"
        "{{- $last := eq (len (slice $.Messages $i)) 1 }}"
        '{{- if eq $m.Role "user" }}{{ $m.Content }}'
        "{{- if $last }}" + _put(pieces.to_prompt) + "{{- else }}" + _put(pieces.to_answer) + "{{- end }}"
        '{{- else if eq $m.Role "assistant" }}{{ $m.Content }}'
        "{{- if not $last }}" + _put(pieces.stop + pieces.to_question) + "{{- end }}"
        "{{- end }}{{- end }}"
    )


def _put(text: str) -> str:
    """Go's way to write `text` as it is."""
    return "{{ " + _quoted(text) + " }}" if text else ""


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
