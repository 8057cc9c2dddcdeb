"""Where formats put what they place themselves: the tools beside the system prompt, and the results of tools.

Does not check the laws, which every row keeps in test_laws.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from hone.chat.encoded import IGNORE
from hone.chat.own import OwnTemplate
from hone.chat.probes import probes
from hone.config.chat import ChatConfig
from tests.chat.conftest import asked

PROBES = {probe.name: probe.conversation for probe in probes()}
SYSTEM = "Answer in one word."


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lfm2", f"<|im_start|>system\n{SYSTEM}\nList of tools: "),
        ("intern2", f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>system name=<|plugin|>\n["),
        ("qwen3_5", f"</IMPORTANT>\n\n{SYSTEM}<|im_end|>\n"),
        ("mimo_v2", f"<|im_start|>system\n{SYSTEM}\n\n# Tools\n\nYou may call"),
        ("falcon_h1", f"<|im_start|>system\n{SYSTEM}\n\nYou are a function calling AI model."),
        ("cpm4", f"<|im_start|>system\n{SYSTEM}\n# Functions\nHere is a list"),
        ("chatglm3", f"[gMASK]sop<|system|>\n {SYSTEM}\n\nAnswer the following questions"),
        ("youtu", f"<|begin_of_text|>{SYSTEM}\n\n<|begin_of_tool_description|>Tool calling"),
        (
            "ernie",
            f"<system_setting>\n{SYSTEM}\n</system_setting>\n\n<global_setting>\nthink_mode=True\n</global_setting>\n\n<tool_list>\n[{{",
        ),
        ("hunyuan", f"]\n\n\u989d\u5916\u8981\u6c42\uff1a\n{SYSTEM}\n\n\u5982\u679c"),
        ("cohere", f"# User Preamble\n{SYSTEM}\n\n## Available Tools\n"),
        ("glm4_moe", "[gMASK]<sop><|system|>\n# Tools"),
        ("glm4_7", f"</tool_call><|system|>{SYSTEM}<|user|>"),
    ],
)
def test_the_tools_stand_beside_the_system_prompt_as_the_maker_has_them(name, words, made_codec):
    assert words in made_codec(name).render(PROBES["system and call"]).text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lfm2", "<|startoftext|><|im_start|>system\nList of tools: "),
        ("intern2", "<s><|im_start|>system name=<|plugin|>\n["),
        ("qwen3_5", "<|im_start|>system\n# Tools"),
        ("mimo_v2", "<|im_start|>system\nYou are MiMo, a helpful AI assistant engineered by Xiaomi.\n\n# Tools"),
        ("falcon_h1", "<|begin_of_text|><|im_start|>system\nYou are a function calling AI model."),
        ("cpm4", "<s><|im_start|>system\n\n# Functions"),
        ("youtu", "<|begin_of_text|><|begin_of_tool_description|>Tool calling"),
        ("hunyuan", "<|startoftext|>\u4f60\u662f\u4e00\u4f4d\u51fd\u6570"),
        ("glm4_7", "[gMASK]<sop><|system|>\n# Tools"),
    ],
)
def test_the_tools_open_the_text_where_there_is_no_system_prompt(name, words, made_codec):
    assert made_codec(name).render(PROBES["call"]).text.startswith(words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lfm2", "<|im_start|>tool\n<|tool_response_start|>sunny, 20 degrees<|tool_response_end|><|im_end|>\n"),
        ("youtu", "<|User|><tool_response>sunny, 20 degrees</tool_response>\n<tool_response>{"),
        (
            "ernie",
            "<|im_start|>user\n<tool_response>\nsunny, 20 degrees\n</tool_response><|im_end|>\n\n<|im_start|>user\n<tool_",
        ),
        ("hunyuan", "<|eos|><tool_response>sunny, 20 degrees</tool_response><|extra_0|><tool_response>{"),
        ("cohere", "<|SYSTEM_TOKEN|><results>\nsunny, 20 degrees</results><|END_OF_TURN_TOKEN|>"),
        ("chatglm3", "<|observation|>\n sunny, 20 degrees<|observation|>\n {"),
        ("intern2", "<|im_start|>environment name=<|plugin|>\nsunny, 20 degrees<|im_end|>\n"),
        ("mimo_v2", "<|im_start|>tool\n<tool_response>\nsunny, 20 degrees\n</tool_response>\n<tool_response>\n"),
        ("glm4", "<|observation|>\nsunny, 20 degrees<|observation|>\n"),
        ("glm_ocr", "<|observation|>\n<tool_response>\nsunny, 20 degrees\n</tool_response>\n\n<tool_response>\n"),
        ("glm4_moe", "<|observation|>\n<tool_response>\nsunny, 20 degrees\n</tool_response>\n<tool_response>\n"),
        ("glm4_7", "<|observation|><tool_response>sunny, 20 degrees</tool_response><tool_response>"),
    ],
)
def test_results_in_a_row_stand_as_the_maker_has_them(name, words, made_codec):
    assert words in made_codec(name).render(PROBES["results"]).text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("glm4_5v", "<|user|>\nHi<|assistant|>\n"),
        ("glm_ocr", "<|user|>\nHi<|assistant|>\n"),
        ("glm4v", "<|user|>\nHi<|assistant|>\n"),
        ("qwen3_vl", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n"),
        ("qwen3_omni", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        ("qwen2_omni", "You are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_the_prompt_ends_as_the_makers_does(name, words, made_codec):
    assert made_codec(name).template.render(asked(PROBES["one turn"]), prompt=True).text.endswith(words)


def test_glm_4_0414_offers_the_tools_alone(made_codec):
    text = made_codec("glm4", tool_format="glm4_0414").render(PROBES["call"]).text
    assert text.startswith('[gMASK]<sop><|system|>\n# \u53ef\u7528\u5de5\u5177\n\n## weather\n\n{\n    "name"')


def test_mimo_v2_has_no_line_break_between_messages(made_codec):
    text = made_codec("mimo_v2").render(PROBES["system"]).text
    assert text == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|><|im_start|>user\nHi<|im_end|>"
        "<|im_start|>assistant\n<think></think>Hello!<|im_end|>"
    )


def test_an_answer_of_ernie_says_its_text_between_tags_and_its_calls_without(made_codec):
    head = "<|im_start|>assistant\n"
    call = '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n<|im_end|>'
    codec = made_codec("ernie", enable_thinking=False)
    for name, said in (("call", ""), ("text and call", "<response>\nLet me look.\n</response>\n")):
        assert head + "<think>\n\n</think>\n\n" + said + call in codec.render(PROBES[name]).text


def test_hunyuan_names_who_speaks_where_there_are_tools(made_codec):
    text = made_codec("hunyuan").render(PROBES["result"]).text
    assert "<|extra_4|>\u7528\u6237\uff1aWeather in Oslo and Rome?<|extra_0|><tool_calls>[{" in text
    assert text.endswith("<|extra_0|>\u52a9\u624b\uff1aSunny.<|eos|>")
    assert "\uff1a" not in made_codec("hunyuan").render(PROBES["turns"]).text
    codec, result = made_codec("hunyuan"), PROBES["result"]
    prompt = codec.prompt(asked(result))
    read = codec.parse(codec.encode([result])[0].ids[len(prompt) :].tolist(), tools=result.tools, prompt=prompt)
    assert read == result.messages[-1]


def test_command_r_asks_for_actions_before_the_answer_and_learns_each_answer_so(made_codec, shared):
    file = shared / "chat_templates/llama.cpp/CohereForAI-c4ai-command-r-plus-tool_use.jinja"
    city = {"type": "string", "description": "Its name"}
    known = {"type": "object", "properties": {"city": city}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "weather", "description": "Tell it", "parameters": known}}
    codec, talk = made_codec("cohere"), replace(PROBES["system and call"], tools=(tool,))
    own = OwnTemplate(file.read_text(), {"bos_token": codec.tokenizer.bos_token}, frozenset(codec.control), ChatConfig(), "")
    examples = codec.examples(talk)
    assert [len(example.messages) for example in examples] == [3, 5]
    for example in examples:
        question = asked(example)
        prompt = codec.template.render(question, prompt=True).text
        # The maker's template ends no message of calls.
        theirs = own.plain(question, True).replace("]```\n<|START", "]```\n<|END_OF_TURN_TOKEN|><|START")
        assert prompt == theirs
        encoded = codec.encode([example])[0]
        learned = [index for index, label in enumerate(encoded.labels.tolist()) if label != IGNORE]
        assert learned[0] == len(codec.prompt(question)) and encoded.ids[: learned[0]].tolist() == codec.prompt(question)
