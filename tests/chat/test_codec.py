"""The codec: ids as Hugging Face has them, what is learned, what comes back, and text that stays text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hone.chat.codec import build_codec
from hone.chat.encoded import IGNORE
from hone.chat.message import Conversation, Message, Text, Think, ToolCall, ToolResult, message
from hone.chat.openai import to_openai
from hone.chat.probes import probes
from hone.config.chat import ChatConfig
from hone.errors import TemplateError
from tests.chat.conftest import asked, real_tokenizer, said

REALS = ("llama-2", "llama-3.1", "qwen3", "mistral-7b-v0.3", "deepseek-llm-7b")


def learned(encoded) -> list[int]:
    return [int(i) for i in encoded.labels if i != IGNORE]


@pytest.mark.parametrize("template", [None, "row"])
@pytest.mark.parametrize("name", REALS)
def test_ids_are_those_of_hugging_face(name, template):
    tokenizer = real_tokenizer(name)
    row = {"llama-2": "llama2", "llama-3.1": "llama3", "qwen3": "qwen3", "mistral-7b-v0.3": "mistral"}.get(name)
    if template and row is None:
        pytest.skip("no row of its own")
    codec = build_codec(ChatConfig(template=row if template else None), tokenizer)
    compared = 0
    for probe in probes():
        try:
            rendered = codec.render(probe.conversation).text
        except TemplateError:
            continue
        ids = codec.encode([probe.conversation])[0].ids.tolist()
        # An answer that begins or ends inside a run is cut there on purpose; these tokenizers happen to cut there too.
        assert ids == tokenizer(rendered, add_special_tokens=False)["input_ids"], probe.name
        # These templates leave out tools and thoughts, and refuse or rewrite what stands in a row (table.toml says how).
        if not probe.conversation.tools and not probe.name.startswith("thought") and not probe.name.endswith("in a row"):
            theirs = tokenizer.apply_chat_template(
                to_openai(asked(probe.conversation)), add_generation_prompt=True, return_dict=False
            )
            assert codec.prompt(asked(probe.conversation)) == theirs, probe.name
        compared += 1
    assert compared >= 7


def test_what_is_learned_is_the_answers_with_their_stop_token(made_codec):
    codec = made_codec("qwen")
    encoded = codec.encode([said("Hi", "Hello", "Bye", "Ciao")])[0]
    spelled = codec.tokenizer.decode(learned(encoded))
    assert spelled == "Hello<|im_end|>Ciao<|im_end|>"
    assert [piece.start for piece in encoded.pieces[1:]] == [piece.end for piece in encoded.pieces[:-1]]
    assert encoded.pieces[0].start == 0 and encoded.pieces[-1].end == len(encoded)
    contents = [codec.tokenizer.decode(encoded.ids[p.start : p.end]) for p in encoded.pieces if p.kind == "content"]
    assert contents[1:] == ["Hi", "Hello", "Bye", "Ciao"]
    assert [p.message for p in encoded.pieces if p.kind == "content"] == [-1, 0, 1, 2, 3]


def test_learn_chooses_and_messages_overrule(made_codec):
    codec = made_codec("chatml")
    conversation = said("a", "b", "c", "d")
    everything, last = codec.encode([conversation], "all")[0], codec.encode([conversation], "last")[0]
    assert (everything.labels == everything.ids).all()
    assert codec.tokenizer.decode(learned(last)) == "d<|im_end|>"
    flagged = Conversation((message("user", "a", train=True), message("assistant", "b", train=False), *conversation.messages[2:]))
    assert codec.tokenizer.decode(learned(codec.encode([flagged])[0])) == "a<|im_end|>d<|im_end|>"
    assert (codec.encode([flagged])[0].ids == codec.encode([conversation])[0].ids).all()


def test_an_answer_whose_thought_is_dropped_is_not_learned_unless_kept(made_codec):
    thought = Message("assistant", (Think("hm"), Text("Yes.")))
    conversation = Conversation((message("user", "a"), thought, message("user", "b"), thought))
    dropped, kept = made_codec("qwen3"), made_codec("qwen3", preserve_thinking=True)
    block = "<think>\nhm\n</think>\n\nYes.<|im_end|>"
    assert dropped.tokenizer.decode(learned(dropped.encode([conversation])[0])) == block
    assert kept.tokenizer.decode(learned(kept.encode([conversation])[0])) == block * 2


@pytest.mark.parametrize(
    ("enable", "prompt_end", "answer"),
    [
        (True, "assistant\n", "<think>\n\n</think>\n\nYes.<|im_end|>"),
        (False, "</think>\n\n", "Yes.<|im_end|>"),
        (None, "assistant\n", "Yes.<|im_end|>"),
    ],
)
def test_answers_without_a_thought_follow_the_setting(enable, prompt_end, answer, made_codec):
    codec = made_codec("qwen3", enable_thinking=enable)
    conversation = said("Sure?", "Yes.")
    assert codec.tokenizer.decode(codec.prompt(asked(conversation))).endswith(prompt_end)
    assert codec.tokenizer.decode(learned(codec.encode([conversation])[0])) == answer


def test_a_prompt_has_pieces_and_nothing_learned(made_codec):
    """Not even of a message that says it is learned."""
    codec = made_codec("qwen3")
    conversation = Conversation((message("user", "How many?", train=True),))
    encoded = codec.encode_prompt(conversation)
    assert encoded.ids.tolist() == codec.prompt(conversation)
    assert (encoded.labels == IGNORE).all() and encoded.pieces[-1].end == len(encoded)


def test_thoughts_written_as_text_are_thoughts(made_codec):
    codec = made_codec("qwen3")
    as_text = said("2+2?", "<think>\nhm\n</think>\n\nFour.")
    as_part = Conversation((message("user", "2+2?"), Message("assistant", (Think("hm"), Text("Four.")))))
    assert codec.render(as_text) == codec.render(as_part)
    ids = codec.encode([as_part])[0].ids.tolist()
    assert codec.parse(ids[len(codec.prompt(asked(as_part))) :]) == as_part.messages[-1]


@pytest.mark.parametrize("name", ["llama-2", "llama-3.1", "deepseek-llm-7b"])
def test_pretraining_text_has_bos_and_end(name):
    tokenizer = real_tokenizer(name)
    codec = build_codec(ChatConfig(template={"llama-2": "llama2", "llama-3.1": "llama3"}.get(name, "default")), tokenizer)
    encoded = codec.encode_text(["Some text </s> <|eot_id|>", ""])
    end = "<|end_of_text|>" if name == "llama-3.1" else tokenizer.eos_token
    assert (encoded[0].labels == encoded[0].ids).all()
    assert encoded[1].ids.tolist() == [tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids(end)]
    special = set(tokenizer.all_special_ids) | set(codec.stop_ids)
    assert not special & set(encoded[0].ids.tolist()[1:-1])


def test_words_that_were_added_are_content():
    tokenizer = real_tokenizer("deepseek-llm-7b")  # its added tokens hold letters such as "\u00f6"
    codec = build_codec(ChatConfig(), tokenizer)
    text = codec.render(said("sch\u00f6n \u00f9", "\u00f8")).text
    assert (
        codec.encode([said("sch\u00f6n \u00f9", "\u00f8")])[0].ids.tolist()
        == tokenizer(text, add_special_tokens=False)["input_ids"]
    )


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=TEXTS, answer=TEXTS, cuts=st.lists(st.integers(1, 5), max_size=30))
def test_any_text_survives_and_streams(question, answer, cuts, made_codec):
    codec = made_codec("default")
    conversation = said(question, "a" + answer)
    start = len(codec.prompt(asked(conversation)))
    encoded = codec.encode([conversation])[0]
    ids = encoded.ids.tolist()[start:]
    assert encoded.labels[start] == ids[0]
    read = codec.parse(ids)
    assert read.text == "a" + answer or "Action:" in answer
    stream, deltas = codec.stream(), []
    while ids:
        size = cuts.pop() if cuts else 1
        deltas.append(stream.feed(ids[:size]).text)
        ids = ids[size:]
    assert "".join(deltas) + stream.close().text == "a" + answer


@pytest.mark.parametrize("name", ["llama-2", "mistral-7b-v0.3", "qwen3"])
def test_streams_of_real_tokenizers_split_characters_right(name):
    codec = build_codec(ChatConfig(template="default"), real_tokenizer(name))
    answer = "Caf\u00e9  \u4f60\u597d \U0001f469\u200d\U0001f467 \U00020000 end"
    ids = codec.encode([said("x", answer)], "last")[0]
    stream = codec.stream()
    deltas = [stream.feed([token]).text for token in learned(ids)]
    assert "".join(deltas) + stream.close().text == answer
    assert len([delta for delta in deltas if delta]) > 4
    assert not any("\ufffd" in delta for delta in deltas)


def test_the_fingerprint_changes_with_everything_that_matters(made_codec):
    prints = [
        made_codec("qwen").fingerprint,
        made_codec("qwen3").fingerprint,
        made_codec("qwen3", enable_thinking=False).fingerprint,
        made_codec("qwen", default_system="Hi").fingerprint,
        made_codec("qwen", tool_format="default").fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert made_codec("qwen").fingerprint == prints[0]


@pytest.mark.parametrize(
    ("name", "conversation", "words"),
    [
        ("gemma", Conversation((message("user", "a"), message("system", "b"))), "only possible at the start"),
        ("llama2", Conversation((message("system", "b"), message("assistant", "a"))), "needs a user message"),
        ("mistral", Conversation((message("system", "b"),)), "last user message, but there is none"),
        ("llama3", Conversation((Message("assistant", (Text("x"), ToolCall("f", {}))),)), "no place for text beside a tool call"),
        ("chatml", said("half \ud83d", "x"), "lone surrogate"),
    ],
)
def test_what_a_format_cannot_say_is_refused_by_name(name, conversation, words, made_codec):
    with pytest.raises(TemplateError, match=words) as caught:
        made_codec(name).encode([conversation])
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "name", ["llama3", "qwen", "chatml", "deepseek3", "glm4", "phi", "phi4", "vicuna", "alpaca", "default", "empty"]
)
def test_any_order_of_roles_is_said(name, made_codec):
    tool = Message("tool", (ToolResult("r1"), ToolResult("r2")))
    messages = (
        *said("u1").messages,
        message("user", "u2"),
        message("system", "s"),
        message("assistant", "x"),
        message("assistant", "y"),
        tool,
    )
    text = made_codec(name).render(Conversation((*messages, message("assistant", "z")))).text
    assert all(text.count(words) for words in ("u1", "u2", "s", "x", "y", "r1", "r2", "z"))


def test_an_empty_system_prompt_leaves_no_trace_in_mistrals_question(made_codec):
    codec = made_codec("mistral")
    bare = said("Hi", "Yes")
    silent = Conversation((message("system", ""), *bare.messages))
    assert codec.encode([silent])[0].ids.tolist() == codec.encode([bare])[0].ids.tolist()


def test_unknown_names_are_met_with_the_nearest(made_tokenizer, tiny_tokenizer):
    with pytest.raises(TemplateError, match='did you mean "llama3"'):
        build_codec(ChatConfig(template="lama3"), tiny_tokenizer)
    with pytest.raises(TemplateError, match='did you mean "qwen"'):
        build_codec(ChatConfig(template="chatml", tool_format="quen"), tiny_tokenizer)
    with pytest.raises(TemplateError, match=r"this tokenizer has no <\|start_header_id\|> .*; choose another template"):
        build_codec(ChatConfig(template="llama3"), tiny_tokenizer)


def test_batches_and_single_conversations_agree(made_codec):
    codec = made_codec("qwen3")
    conversations = [probe.conversation for probe in probes()]
    together = codec.encode(conversations)
    for one, conversation in zip(together, conversations, strict=True):
        alone = codec.encode([conversation])[0]
        assert np.array_equal(one.ids, alone.ids) and np.array_equal(one.labels, alone.labels) and one.pieces == alone.pieces


def test_plain_texts_are_those_of_the_tokenizer_itself(shared):
    """Also where it puts tokens around a text, or a space before it (Mistral, Llama 2)."""
    from transformers import AutoTokenizer

    texts = ["Hello world", " leading  space\n", "a", "\u00e9t\u00e9 \U0001f600 x", "\u4e2d\u6587 abc"]
    for folder in sorted(path for path in (shared / "tokenizers").iterdir() if (path / "tokenizer_config.json").is_file()):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        encoded = build_codec(ChatConfig(template="empty"), tokenizer).encode_plain(texts)
        assert [one.ids.tolist() for one in encoded] == [tokenizer(text)["input_ids"] for text in texts], folder.name
        assert not any(one.num_trained for one in encoded)


@pytest.mark.parametrize(("template", "closing"), [("chatml", "\n"), ("qwen", "\n"), ("llama3", ""), ("default", "\n")])
def test_what_closes_a_conversation_follows_its_last_stop_token(template, closing, made_codec):
    """Prompt, answer with its stop token, and closing are the conversation as it is learned."""
    codec = made_codec(template)
    conversation = said("2+2?", "4")
    prompt, whole = codec.prompt(asked(conversation)), codec.encode([conversation])[0]
    assert prompt + learned(whole) + list(codec.closing) == whole.ids.tolist()
    assert codec.tokenizer.decode(codec.closing) == closing
