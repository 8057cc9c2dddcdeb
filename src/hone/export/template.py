"""The chat template of an export: Jinja that makes of messages what the trained format made of them, or word that there is none.

Does not know any format: it looks at what the codec renders. Whether a template is right is measured, never assumed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from jinja2 import TemplateError as JinjaError
from transformers import PreTrainedTokenizerBase

from hone.chat.codec import Codec
from hone.chat.message import Conversation, message
from hone.chat.openai import message_to_openai

_ASKED, _SAID = message("user", "Qaaq"), message("assistant", "Sbbs")
_ASKED_AGAIN, _SAID_AGAIN, _RULE = message("user", "Qccq"), message("assistant", "Sdds"), message("system", "Reer")


@dataclass(frozen=True)
class ChatTemplate:
    """text: Jinja for the exported tokenizer, None to keep its own; agrees: it renders the format used; origin: for people."""

    text: str | None
    agrees: bool
    origin: str


def choose_template(codec: Codec, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
    """The tokenizer's own template where it renders as the codec does, else one written from the codec's renderings."""
    if tokenizer.chat_template and renders_alike(codec, tokenizer, None):
        return ChatTemplate(None, True, "the tokenizer's own, which renders the format that was used")
    made = written_template(codec)
    if made is not None and renders_alike(codec, tokenizer, made):
        return ChatTemplate(made, True, f"written from the format {codec.template.name}, renders the same; it knows no tools")
    return ChatTemplate(None, False, f"the tokenizer's own, which does NOT render the format {codec.template.name}")


def probes() -> list[tuple[Conversation, bool]]:
    """Conversations on which templates are compared, and whether each ends with the prompt for an answer."""
    talks = [(_ASKED,), (_RULE, _ASKED), (_ASKED, _SAID, _ASKED_AGAIN), (_RULE, _ASKED, _SAID, _ASKED_AGAIN, _SAID_AGAIN, _ASKED)]
    return [(Conversation(one), True) for one in talks] + [(Conversation((_ASKED, _SAID)), False)]


def renders_alike(codec: Codec, tokenizer: PreTrainedTokenizerBase, template: str | None, *, prompts_alone: bool = False) -> bool:
    """Whether `apply_chat_template` gives what the codec gives on every probe. template: in place of the tokenizer's own.

    prompts_alone: whether a conversation that ends with an answer does not matter, as to who only asks for answers.

    Compared are the text and, where no answer stands in it, the ids: the codec starts an answer with a token of its own, as
    sampling does, and a plain tokenizer may join it to what stands before.
    """
    for talk, prompt in probes():
        if prompts_alone and not prompt:
            continue
        items = [item for one in talk.messages for item in message_to_openai(one)]
        arguments = {"chat_template": template, "add_generation_prompt": prompt}
        try:
            text = tokenizer.apply_chat_template(items, tokenize=False, **arguments)
        except JinjaError:
            return False
        ours = _text(codec, talk.messages, prompt=prompt)
        # White space behind the last answer is never sampled, and templates differ in whether they write it.
        if (text != ours) if prompt else (text.rstrip() != ours.rstrip()):
            return False
        if all(one.role != "assistant" for one in talk.messages):
            ids = tokenizer.apply_chat_template(items, tokenize=True, return_dict=False, **arguments)
            if list(ids) != codec.prompt(talk):
                return False
    return True


@dataclass(frozen=True)
class Around:
    """Pieces of text that a format puts around messages.

    head: before a first question; rule_head, rule_tail: around a system prompt; to_answer: from a question to its answer; stop:
    what ends an answer, and to_question what follows before the next question; to_prompt: from the last question to the answer
    that is asked for.
    """

    head: str
    rule_head: str
    rule_tail: str
    to_answer: str
    stop: str
    to_question: str
    to_prompt: str


def around(codec: Codec) -> Around | None:
    """The pieces that the codec puts around each message; None where a message changes its neighbours' pieces."""
    asked, answer = _ASKED.text, _SAID.text
    plain = _text(codec, (_ASKED, _SAID, _ASKED_AGAIN), prompt=True)
    ruled = _text(codec, (_RULE, _ASKED), prompt=True)
    alone = _text(codec, (_ASKED,), prompt=True)
    if not all(word in plain for word in (asked, answer, _ASKED_AGAIN.text)) or _RULE.text not in ruled:
        return None
    head, rest = plain.split(asked, 1)
    to_answer, rest = rest.split(answer, 1)
    to_question, to_prompt = rest.split(_ASKED_AGAIN.text, 1)
    stop = _stop(codec, to_question)
    rule_head, rule_rest = ruled.split(_RULE.text, 1)
    rule_tail = rule_rest.split(asked, 1)[0]
    if alone != head + asked + to_prompt:
        return None
    return Around(head, rule_head, rule_tail, to_answer, stop, to_question.removeprefix(stop), to_prompt)


def written_template(codec: Codec) -> str | None:
    """Jinja out of the pieces that the codec puts around each message; None where there are none such."""
    found = around(codec)
    if found is None:
        return None
    return (
        "{%- if messages[0]['role'] == 'system' -%}"
        + _put(found.rule_head) + "{{- messages[0]['content'] -}}" + _put(found.rule_tail) + "{%- set turns = messages[1:] -%}"
        + "{%- else -%}" + _put(found.head) + "{%- set turns = messages -%}{%- endif -%}"
        + "{%- for message in turns -%}"
        + "{%- if message['role'] == 'user' -%}{{- message['content'] -}}"
        + "{%- if not loop.last -%}" + _put(found.to_answer)
        + "{%- elif add_generation_prompt -%}" + _put(found.to_prompt) + "{%- endif -%}"
        + "{%- elif message['role'] == 'assistant' -%}{{- message['content'] -}}" + _put(found.stop)
        + "{%- if not loop.last -%}" + _put(found.to_question) + "{%- endif -%}"
        + "{%- else -%}{{- raise_exception('this chat template knows system (first), user and assistant') -}}{%- endif -%}"
        + "{%- endfor -%}"
    )  # fmt: skip


def _text(codec: Codec, messages: tuple, *, prompt: bool) -> str:
    return codec.template.render(Conversation(messages), prompt=prompt).text


def _stop(codec: Codec, after_answer: str) -> str:
    """The stop token an answer ends with, where what follows an answer begins with it."""
    return next((word for word in codec.template.stop if after_answer.startswith(word)), "")


def _put(text: str) -> str:
    """Jinja that writes `text` as it is."""
    return "{{- " + json.dumps(text, ensure_ascii=False) + " -}}" if text else ""
