"""The tokenizer's own template: learned where it can be found for certain, refused in words where it cannot."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from hone.chat.codec import build_codec
from hone.chat.encoded import IGNORE
from hone.chat.laws import check_laws, contradicts
from hone.chat.message import Conversation, Message, Text, Think, ToolCall, ToolResult, message
from hone.config.chat import ChatConfig
from hone.errors import TemplateError
from tests.chat.conftest import said

START, END = "<|im_start|>", "<|im_end|>"
TURNS = "{% for m in messages %}" + START + "{{ m.role }}\n{{ m.content }}" + END + "\n{% endfor %}"
ASK = "{% if add_generation_prompt %}" + START + "assistant\n{% endif %}"


def learned(encoded):
    """The ids something is learned from."""
    return [i for i in encoded.labels.tolist() if i != IGNORE]


@pytest.fixture
def codec_of(tiny_tokenizer_dir):
    """`codec_of(template text)`: the tiny tokenizer carrying that template."""

    def made(text, **settings):
        tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
        tokenizer.chat_template = text
        return build_codec(ChatConfig(**settings), tokenizer)

    return made


def test_laws_hold_without_a_named_template(tiny_tokenizer):
    codec = build_codec(ChatConfig(), tiny_tokenizer)
    results = check_laws(codec)
    assert [result.held for result in results] == [None, True, True, True, None, True]
    encoded = codec.encode([said("Hi", "Yes", "Bye", "No")])[0]
    assert codec.tokenizer.decode([i for i in encoded.labels if i != IGNORE]) == f"Yes{END}No{END}"


def test_no_template_anywhere_asks_for_a_name(codec_of):
    with pytest.raises(TemplateError, match="template: empty"):
        codec_of(None)


def test_a_template_that_is_not_prefix_stable_is_refused_with_both_texts(codec_of):
    codec = codec_of(TURNS + ASK.replace("assistant\n", "assistant\n<think>\n"))
    with pytest.raises(TemplateError, match=r"not prefix-stable.*<think>.*name a template"):
        codec.encode([said("Hi", "Yes")])
    assert codec.prompt(said("Hi"))  # asking needs no answer


def test_a_template_without_a_stop_token_is_refused(codec_of):
    with pytest.raises(TemplateError, match="no token to stop at"):
        codec_of("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}").encode([said("Hi", "Yes")])


@pytest.mark.parametrize("filter_", ["upper", "replace('a', 'b')"])
def test_rewritten_text_is_refused_only_where_it_spells_a_control_token(filter_, codec_of):
    codec = codec_of(TURNS.replace("m.content", f"(m.content | {filter_})") + ASK)
    assert codec.encode([said("a question", "an answer")])[0].num_trained
    with pytest.raises(TemplateError, match=r"spells the control token '<\|im_end\|>'"):
        codec.encode([said(f"a {END}", "an answer")])


@pytest.mark.parametrize(
    ("conversation", "words"),
    [
        (Conversation((message("user", "x"), Message("assistant", (ToolCall("f", {}),)))), "leaves out the call of 'f'"),
        (
            Conversation(said("x", "y").messages, ({"type": "function", "function": {"name": "f"}},)),
            "leaves out the list of tools",
        ),
    ],
)
def test_what_a_template_drops_is_an_error(conversation, words, codec_of):
    with pytest.raises(TemplateError, match=words):
        codec_of(TURNS + ASK).encode([conversation])
    only_users = TURNS.replace("{{ m.content }}", "{{ m.content if m.role != 'system' else '' }}")
    with pytest.raises(TemplateError, match=r"leaves out what message 0 \(system\) says"):
        codec_of(only_users + ASK).encode([Conversation((message("system", "s"), *said("x", "y").messages))])


def test_broken_jinja_and_a_refusal_say_so(codec_of):
    with pytest.raises(TemplateError, match="not valid Jinja"):
        codec_of("{% for %}").prompt(said("x"))
    with pytest.raises(TemplateError, match="only cats"):
        codec_of("{{ raise_exception('only cats') }}").prompt(said("x"))
    with pytest.raises(TemplateError, match="cannot render this conversation: SecurityError"):
        codec_of("{{ messages.__class__.__mro__ }}").prompt(said("x"))


def test_the_generation_tag_loop_controls_and_dates_are_known(codec_of):
    text = "{% for m in messages %}{% generation %}" + START + "{{ m.role }}\n{{ m.content }}" + END + "\n{% endgeneration %}"
    codec = codec_of(text + "{% if false %}{% break %}{% endif %}{% endfor %}{{ strftime_now('') }}" + ASK)
    assert codec.tokenizer.decode([i for i in codec.encode([said("Hi", "Yes")])[0].labels if i != IGNORE]) == f"Yes{END}"


def test_default_system_and_flags_count(tiny_tokenizer):
    codec = build_codec(ChatConfig(default_system="Be kind."), tiny_tokenizer)
    flagged = Conversation((message("user", "Hi", train=True), message("assistant", "Yes", train=False)))
    encoded = codec.encode([flagged])[0]
    assert codec.render(flagged).text.startswith(f"{START}system\nBe kind.{END}")
    assert codec.tokenizer.decode([i for i in encoded.labels if i != IGNORE]) == f"Hi{END}"
    assert encoded.pieces[0].message == -1


def test_thoughts_are_words_where_the_template_knows_none(tiny_tokenizer):
    codec = build_codec(ChatConfig(), tiny_tokenizer)
    answer = Message("assistant", (Think("hm"), Text("Yes")))
    conversation = Conversation((message("user", "Hi"), answer))
    ids = codec.encode([conversation])[0].ids.tolist()
    assert codec.parse(ids[len(codec.prompt(said("Hi"))) :]) == answer


def test_arguments_are_given_as_text_where_a_template_joins_them(codec_of):
    call = '{% for c in m.tool_calls or [] %}{{ \'<tool_call>\n{"name": "\' + c.function.name + \'", "arguments": \' }}'
    call += "{{ c.function.arguments + '}\n</tool_call>' }}{% endfor %}"
    codec = codec_of(TURNS.replace("{{ m.content }}", "{{ m.content }}" + call) + ASK)
    answer = Message("assistant", (ToolCall("f", {"a": [1, "x"]}),))
    messages = (message("user", "Hi"), answer, Message("tool", (ToolResult("r"),)), message("assistant", "ok"))
    assert '"arguments": {"a": [1, "x"]}' in codec.render(Conversation(messages)).text
    ids = codec.encode([Conversation(messages[:2])])[0].ids.tolist()
    assert codec.parse(ids[len(codec.prompt(said("Hi"))) :]).parts == answer.parts


def test_a_template_that_contradicts_the_tokenizers_own_is_shown(tiny_tokenizer):
    assert contradicts(build_codec(ChatConfig(), tiny_tokenizer), tiny_tokenizer) == ""
    assert contradicts(build_codec(ChatConfig(template="qwen3_nothink"), tiny_tokenizer), tiny_tokenizer) == ""
    found = contradicts(build_codec(ChatConfig(template="qwen"), tiny_tokenizer), tiny_tokenizer)
    assert "template qwen is not what" in found and "You are Qwen" in found
    assert "the first token that differs is number 1: 's', 'user' there" in found


def test_thoughts_are_the_tokens_that_are_sampled_where_the_prompt_opens_them(tiny_tokenizer_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = TURNS + ASK.replace("assistant\n", "assistant\n<think>\n")  # as QwQ: it knows no reasoning_content
    codec = build_codec(ChatConfig(), tokenizer)
    answer = Message("assistant", (Think("hm <|im_end|>"), Text("Yes")))
    encoded = codec.encode([Conversation((message("user", "Hi"), answer))])[0]
    asked = codec.prompt(said("Hi"))
    assert encoded.ids[: len(asked)].tolist() == asked
    closing = tokenizer.convert_tokens_to_ids("</think>")
    assert learned(encoded) == encoded.ids[len(asked) :].tolist()[: len(learned(encoded))]
    assert learned(encoded).count(closing) == 1 and learned(encoded).count(tokenizer.eos_token_id) == 1
    assert codec.parse(learned(encoded)) == answer


def test_an_earlier_answer_has_the_same_tokens_when_asked_as_when_learned(codec_of):
    turns = TURNS.replace("{{ m.content }}", "{{ 'Fra' if m.role == 'assistant' }}{{ m.content }}")
    codec = codec_of(turns + ASK.replace("assistant\n", "assistant\nFra"))
    talk = said("Hi", "nce", "Bye", "nce")
    ids, asked = codec.encode([talk])[0].ids.tolist(), codec.prompt(Conversation(talk.messages[:-1]))
    assert ids[: len(asked)] == asked


def test_a_header_that_is_always_written_is_not_learned(codec_of):
    turn = "{{ '<|im_start|>' if m.role == 'assistant' else '<|bos|>' }}{{ m.content }}" + END
    codec = codec_of("{% for m in messages %}" + turn + "{% endfor %}" + START)  # as Cohere's with tools
    assert codec.tokenizer.decode(learned(codec.encode([said("Hi", "Yes")])[0])) == f"Yes{END}"


def test_a_token_that_ends_the_whole_text_is_no_part_of_the_answer(codec_of):
    codec = codec_of(
        TURNS.replace(END, "<|eos|>") + "{% if add_generation_prompt %}" + START + "assistant\n{% else %}" + END + "{% endif %}"
    )
    talk = said("Hi", "Yes", "Bye", "No")  # as Phi-3's
    assert codec.tokenizer.decode(learned(codec.encode([talk])[0])) == "Yes<|eos|>No<|eos|>"
    assert codec.examples(talk) == [talk]
    ids = learned(codec.encode([said("Hi", f"Yes<|eos|>\n{END}\n")])[0])
    assert codec.tokenizer.decode(ids) == f"Yes<|eos|>\n{END}\n<|eos|>\n{END}"  # where it is said, nothing can be told apart


def test_a_key_that_is_left_out_is_not_told_and_null_is_left_out(codec_of):
    text = TURNS + "{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}" + ASK
    told = [codec_of(text, **given).template.plain(said("Hi"), True) for given in ({}, {"enable_thinking": None})]
    assert "True" not in told[0] and told[0] == told[1]
    for value in (True, False):
        assert f"\n{value}{START}" in codec_of(text, enable_thinking=value).template.plain(said("Hi"), True)
    assert codec_of(text).fingerprint != codec_of(text, enable_thinking=True).fingerprint
