"""Each answer is learned once, as it is sampled, also by templates that write earlier answers otherwise."""

from __future__ import annotations

import json
from itertools import groupby

import pytest

from hone.chat import table
from hone.chat.codec import build_codec
from hone.chat.encoded import IGNORE
from hone.chat.message import Conversation, Message, Text, Think, ToolCall, ToolResult, message
from hone.chat.probes import TOOL
from hone.config.chat import ChatConfig
from hone.config.objective import Sft as SftConfig
from hone.data.build import build_data
from hone.objectives.sft import Sft
from tests.chat.conftest import asked, real_tokenizer, said
from tests.data.plain import settings as plain_settings
from tests.data.plain import write_set

THINKING = [name for name, row in table.rows().items() if row.thinking != "none"]
SETTINGS = [{}, {"enable_thinking": False}, {"enable_thinking": None}, {"preserve_thinking": True}]


def thought(text: str) -> Message:
    return Message("assistant", (Think("hm " + text), Text(text)))


CALL = Message("assistant", (Think("Look."), ToolCall("weather", {"city": "Oslo"}, "callid001")))
RESULT = Message("tool", (ToolResult("sunny", "weather", "callid001"),))
TALKS = {
    "plain": said("a", "One.", "b", "Two.", "c", "Three."),
    "thoughts": Conversation((message("user", "a"), thought("One."), message("user", "b"), thought("Two."))),
    "mixed": Conversation((message("user", "a"), thought("One."), *said("b", "Two.", "c").messages, thought("Three."))),
    "tools": Conversation((message("user", "a"), CALL, RESULT, thought("One."), *said("b", "Two.").messages), (TOOL,)),
    "unfinished": Conversation((message("user", "a"), thought("One."), message("user", "b"))),
}


def learned(codec, conversation) -> list[int]:
    labels = codec.encode([conversation])[0].labels
    return labels[labels != IGNORE].tolist()


def answers_learned(codec, conversation) -> list[list[int]]:
    """What is learned of each answer: what is learned without a break."""
    labels = codec.encode([conversation])[0].labels.tolist()
    return [list(run) for is_learned, run in groupby(labels, lambda label: label != IGNORE) if is_learned]


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("settings", SETTINGS, ids=["true", "false", "null", "preserved"])
@pytest.mark.parametrize("name", THINKING)
def test_each_answer_is_learned_once_as_it_is_sampled(name, settings, talk, made_codec):
    codec, conversation = made_codec(name, **settings), TALKS[talk]
    answers = [i for i, one in enumerate(conversation.messages) if one.role == "assistant"]
    alone = [Conversation(conversation.messages[: i + 1], conversation.tools) for i in answers]
    wanted = []
    for one in alone:
        encoded = codec.encode([one], "last")[0]
        wanted.append(encoded.labels[encoded.labels != IGNORE].tolist())
        # What is learned stands behind the very prompt that asks for it.
        first = int((encoded.labels != IGNORE).argmax())
        sampled = codec.prompt(asked(one))
        if codec.template.row.thinking != "answer" or settings.get("enable_thinking", True) is not None:
            assert encoded.ids[:first].tolist() == sampled
    # A call may be learned in the whole conversation, and an answer before or behind it in an example of its own.
    found = [answer for example in codec.examples(conversation) for answer in answers_learned(codec, example)]
    assert sorted(found) == sorted(wanted)


def test_a_template_that_rewrites_nothing_has_one_example(made_codec):
    assert made_codec("llama3").examples(TALKS["thoughts"]) == [TALKS["thoughts"]]
    assert made_codec("qwen3", preserve_thinking=True).examples(TALKS["thoughts"]) == [TALKS["thoughts"]]


def test_only_what_is_rewritten_costs_an_example(made_codec):
    talk = Conversation((message("user", "a"), thought("One."), *said("b", "Two.").messages))
    first, last = made_codec("qwen3", enable_thinking=None).examples(talk)
    assert [len(first.messages), len(last.messages)] == [2, 4]
    assert [one.train for one in last.messages] == [None, False, None, None]


def test_what_is_not_to_be_learned_needs_no_example(made_codec):
    kept, *rest = TALKS["thoughts"].messages[1:]
    talk = Conversation((message("user", "a"), Message("assistant", kept.parts, train=False), *rest))
    assert made_codec("qwen3").examples(talk) == [talk]


def test_the_tokenizers_own_template_learns_each_answer_too():
    codec = build_codec(ChatConfig(), real_tokenizer("qwen3"))
    first, last = codec.examples(TALKS["thoughts"])
    decode = codec.tokenizer.decode
    assert decode(learned(codec, first)) == "<think>\nhm One.\n</think>\n\nOne.<|im_end|>"
    assert decode(learned(codec, last)) == "<think>\nhm Two.\n</think>\n\nTwo.<|im_end|>"


def test_the_report_says_what_it_costs(tmp_path, made_codec):
    turn = "<think>\nhm\n</think>\n\nYes."
    rows = [{"prompt": "b", "response": turn, "history": [["a", turn]]}, {"prompt": "a", "response": turn, "history": []}]
    write_set(tmp_path, rows, columns={"prompt": "prompt", "response": "response", "history": "history"})
    config = plain_settings(tmp_path)
    codec = made_codec("qwen3")
    data = build_data(config, Sft(SftConfig()), codec, names=("toy",), seed=0)
    (report,) = data.report.sets
    assert (report.kept, report.sequences, report.rewritten, report.examples) == (2, 3, 1, 3)
    assert report.repeated == min(data.lengths)
    assert "3 examples in all" in "\n".join(report.lines())
    assert json.dumps(data.report.to_dict())
    assert "answers that the template" not in "\n".join(
        build_data(config, Sft(SftConfig(mask_history=True)), codec, names=("toy",), seed=0).report.lines()
    )
