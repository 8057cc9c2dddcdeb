"""The tokenizer's own template against transformers: the same text for every template at hand, or a reason why not.

Does not test what is learned of the text beyond the masks that templates mark themselves.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from functools import cache
from itertools import groupby
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from hone.chat.codec import Codec, build_codec
from hone.chat.encoded import IGNORE
from hone.chat.openai import conversation_from_openai
from hone.chat.own import OwnTemplate
from hone.config.chat import ChatConfig
from hone.errors import TemplateError
from hone.models.stand_in import stand_in_tokenizer
from tests.chat.conftest import REAL

TEMPLATES = REAL / "chat_templates"
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
SAID = ({"enable_thinking": True}, {"enable_thinking": False}, {"preserve_thinking": True})
CONTROL = re.compile(r"<\|[^|<>{}\s]+\|>|<\uff5c[^\uff5c]+\uff5c>|<(?:start|end)_of_turn>|</?s>|\[/?[A-Z_]+\]")
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "A city"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": PARAMETERS}}
CALL = {"type": "function", "id": "abcdef123", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
TURNS = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello! How can I help?"}]
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None, bool]] = {
    "basic": ([*TURNS, {"role": "user", "content": "Name a colour."}], None, True),
    "system": ([{"role": "system", "content": "Be terse."}, *TURNS], None, False),
    "tools": (
        [
            {"role": "user", "content": "Weather in Oslo?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "name": "weather", "tool_call_id": "abcdef123", "content": "sunny"},
            {"role": "assistant", "content": "It is sunny."},
        ],
        [TOOL],
        False,
    ),
}
LEFT_OUT = {  # what transformers renders without a word of what was said: hone refuses
    "drops tools": "has no place for tools: it leaves out",
    "empty": "leaves out what message",
}
HTML = "transformers' `safe` makes HTML of the JSON it is joined with: &#34; for every quotation mark"
TEXT = "it joins arguments to text, of which the same is true: transformers needs them as JSON text already, hone gives them so"
UNLISTED = "it writes calls, but no list of tools"
APART = {
    ("mistral-common/v2.jinja", "tools"): HTML,
    ("mistral-common/v3.jinja", "tools"): HTML,
    ("mistral-common/v7.jinja", "tools"): HTML,
    ("llama.cpp/meetkai-functionary-medium-v3.1.jinja", "tools"): TEXT,
    ("trl/deepseekv3_training.jinja", "tools"): UNLISTED,
}
UNLEARNED = {  # why nothing is learned of a text that renders
    "no stop": "ends answers with .* which is no token to stop at",
    "unstable": "not prefix-stable",
}


@cache
def record() -> dict[str, dict[str, Any]]:
    """What transformers 5.23 makes of each template, by file and conversation; {} where the files are not at hand."""
    path = TEMPLATES / "RENDER.json"
    return json.loads(path.read_text(encoding="utf-8"))["templates"] if path.is_file() else {}


def source(file: str) -> str:
    """The template's text; chujiezheng's are printed with white space that is not theirs."""
    text = (TEMPLATES / file).read_text(encoding="utf-8")
    return text.replace("    ", "").replace("\n", "") if file.startswith("chujiezheng") else text


def own(file: str, **settings: Any) -> OwnTemplate:
    """The template as hone takes it from a tokenizer that has its control tokens."""
    text = source(file)
    controls = frozenset(CONTROL.findall(text)) | {"<s>", "</s>"}
    return OwnTemplate(text, NAMES, controls, ChatConfig(**settings), "</s>")


def theirs(file: str, name: str, *, as_text: bool = False, **said: Any) -> str:
    """transformers' text. Raises: whatever the template does."""
    messages, tools, prompt = CONVERSATIONS[name]
    if as_text:
        messages = json.loads(json.dumps(messages))
        messages[1]["tool_calls"][0]["function"]["arguments"] = json.dumps(CALL["function"]["arguments"])
    settings = {**NAMES, **said, "documents": None, "add_generation_prompt": prompt}
    return render_jinja_template([messages], tools=tools, chat_template=source(file), **settings)[0][0]


def outcome(file: str, name: str) -> str:
    """How hone's text compares: "same", or the reason why there is none or another."""
    messages, tools, prompt = CONVERSATIONS[name]
    found = record()[file][name].partition(":")[0]
    conversation = conversation_from_openai(messages, tools)
    reason = APART.get((file, name))
    if found in LEFT_OUT or reason == UNLISTED:
        with pytest.raises(TemplateError, match=LEFT_OUT.get(found, LEFT_OUT["drops tools"])):
            own(file).plain(conversation, prompt)
        return reason or found
    if found == "refuses" and not reason:
        with pytest.raises(TemplateError):
            own(file).plain(conversation, prompt)
        return found
    expected = theirs(file, name, as_text=reason == TEXT)
    assert own(file).plain(conversation, prompt) == (html.unescape(expected) if reason else expected)
    return reason or "same"


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_template_renders_what_transformers_renders_or_is_refused_for_a_reason(name, shared):
    counts = Counter(outcome(file, name) for file in record())
    assert len(record()) == 114
    assert (
        counts
        == {
            "basic": {"same": 109, "empty": 2, "refuses": 3},
            "system": {"same": 101, "empty": 8, "refuses": 5},
            "tools": {"same": 54, "drops tools": 27, "refuses": 28, HTML: 3, TEXT: 1, UNLISTED: 1},
        }[name]
    )


def test_a_template_is_told_what_the_settings_say_of_thoughts_and_nothing_where_they_say_nothing(shared):
    """That left out is not true: five templates write something else when they are told."""
    messages, _, prompt = CONVERSATIONS["basic"]
    conversation = conversation_from_openai(messages)
    files = [file for file in record() if outcome(file, "basic") == "same"]
    assert len(files) == 109
    changed = {str(said): set() for said in SAID}
    for file in files:
        for said in SAID:
            told = own(file, **said).plain(conversation, prompt)
            assert told == theirs(file, "basic", **said)
            changed[str(said)] |= {file} if told != own(file).plain(conversation, prompt) else set()
    assert [len(found) for found in changed.values()] == [5, 14, 0]


def learned(file: str, name: str) -> str:
    """How the text that is learned from compares with what is only rendered: "same", or why there is none."""
    messages, tools, _ = CONVERSATIONS[name]
    conversation = conversation_from_openai(messages, tools)
    template = own(file)
    try:
        text = template.plain(conversation, False)
    except TemplateError:
        return "not rendered"
    try:
        rendered = template.render(conversation)
    except TemplateError as error:
        return next(reason for reason, words in UNLEARNED.items() if re.search(words, str(error)))
    assert rendered.text == text == "".join(segment.text for segment in rendered.segments)
    said = "".join(segment.text for segment in rendered.segments if segment.trained)
    assert messages[-1]["content"] in said and messages[-1]["content"] != said  # the stop token comes after it
    return "same"


@pytest.mark.parametrize("name", ["system", "tools"])
def test_what_is_learned_is_that_text_or_is_refused_for_a_reason(name, shared):
    counts = Counter(learned(file, name) for file in record())
    assert (
        counts
        == {
            "system": {"same": 74, "not rendered": 13, "no stop": 11, "unstable": 16},
            "tools": {"same": 42, "not rendered": 56, "no stop": 1, "unstable": 15},
        }[name]
    )


TALKS = {
    "one": TURNS,
    "system": [{"role": "system", "content": "Be terse."}, *TURNS],
    "turns": [
        *TURNS,
        {"role": "user", "content": "Name a colour.\n\nOr two."},
        {"role": "assistant", "content": "Blue.\n\n  Green \u4f60\u597d <|im_end|>x"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Bye."},
    ],
}
ENDS = {
    "trl/cohere": "<|END_OF_TURN_TOKEN|>",
    "trl/gemma": "<end_of_turn>",
    "trl/phi3": "<|endoftext|>",
    "trl/llama3": "<|eot_id|>",
}
REFUSED = {  # no answer stands in the text as the prompt asks for it
    "trl/deepseekv3_training.jinja": "not prefix-stable",
    "trl/nemotron_3_nano_training.jinja": "not prefix-stable",
    "trl/nemotron_3_super_training.jinja": "not prefix-stable",
    "trl/nemotron_3_ultra_training.jinja": "not prefix-stable",
    "trl/idefics3_training.jinja": "leaves out what message 0",  # it takes lists of parts alone
}


def marked() -> list[str]:
    """The templates that mark what is generated."""
    return [file for file in record() if re.search(r"{%-? *generation", source(file))]


def carrying(file: str) -> Any:
    """A tokenizer with the template and the control tokens it writes."""
    end = next((word for start, word in ENDS.items() if file.startswith(start)), "<|im_end|>")
    bos = "<|begin_of_text|>" if "llama3" in file else ""
    tokenizer = stand_in_tokenizer(bos, end, sorted(set(CONTROL.findall(source(file)))))
    tokenizer.chat_template = source(file)
    return tokenizer


def runs(ids: list[int], mask: list[bool], tokenizer: Any) -> list[str]:
    """The text of each unbroken run of marked tokens."""
    groups = groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1])
    return [tokenizer.decode([token for token, _ in group]) for on, group in groups if on]


def difference(file: str, talk: str, codec: Codec) -> str:
    """Where the tokens hone learns from and those the template marks differ; nothing may, but for what is never sampled."""
    tokenizer, messages = codec.tokenizer, TALKS[talk]
    conversation = conversation_from_openai(messages)
    if file in REFUSED:
        with pytest.raises(TemplateError, match=REFUSED[file]):
            codec.encode([conversation])
        return "refused"
    if file == "trl/gemma_training.jinja" and talk == "system":
        with pytest.raises(TemplateError, match="System role not supported"):
            codec.encode([conversation])
        return "refused"
    theirs = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ours = codec.encode([conversation])[0]
    expected = runs(theirs["input_ids"], [mark == 1 for mark in theirs["assistant_masks"]], tokenizer)
    found = runs(ours.ids.tolist(), (ours.labels != IGNORE).tolist(), tokenizer)
    answers = [index for index, one in enumerate(messages) if one["role"] == "assistant"]
    what = set()
    for index, text, said in zip(answers, expected, found, strict=True):
        before, here, after = text.rpartition(said)
        prompt = tokenizer.apply_chat_template(messages[:index], tokenize=False, add_generation_prompt=True)
        assert here and prompt.endswith(before) and after in ("", "\n", "\n<|endoftext|>"), (file, text, said)
        what |= {"less what the prompt says"} if before else set()
        what |= {"less what follows the stop token"} if after else set()
    return ", ".join(sorted(what)) or "same"


def test_what_is_learned_is_what_templates_mark_as_generated(shared):
    """But for what stands before, in the prompt, and for what follows the stop token: neither is ever sampled."""
    counts = {talk: Counter() for talk in TALKS}
    for file in marked():
        codec = build_codec(ChatConfig(enable_thinking=None), carrying(file))
        for talk, found in counts.items():
            found[difference(file, talk, codec)] += 1
    for talk, found in counts.items():
        no_system = talk == "system"
        assert found == {
            "same": 4,
            "less what follows the stop token": 7 - no_system,
            "less what follows the stop token, less what the prompt says": 4,
            "refused": 5 + no_system,
        }
