"""Where formats put what they place themselves: the tools beside the system prompt, and the results of tools.

Does not check the laws, which every row keeps in test_laws.
"""

from __future__ import annotations

import pytest

from hone.chat.probes import probes

PROBES = {probe.name: probe.conversation for probe in probes()}
SYSTEM = "Answer in one word."


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lfm2", f"<|im_start|>system\n{SYSTEM}\nList of tools: "),
        ("intern2", f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>system name=<|plugin|>\nYou can use"),
        ("qwen3_5", f"</IMPORTANT>\n\n{SYSTEM}<|im_end|>\n"),
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
        ("intern2", "<s><|im_start|>system name=<|plugin|>\nYou can use"),
        ("qwen3_5", "<|im_start|>system\n# Tools"),
        ("glm4_7", "[gMASK]<sop><|system|>\n# Tools"),
    ],
)
def test_the_tools_open_the_text_where_there_is_no_system_prompt(name, words, made_codec):
    assert made_codec(name).render(PROBES["call"]).text.startswith(words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lfm2", "<|im_start|>tool\n<|tool_response_start|>sunny, 20 degrees<|tool_response_end|><|im_end|>\n"),
        ("intern2", "<|im_start|>environment name=<|plugin|>\nsunny, 20 degrees<|im_end|>\n"),
        ("mimo_v2", "<|im_start|>tool\n<tool_response>\nsunny, 20 degrees\n</tool_response>\n<tool_response>\n"),
        ("glm4", "<|observation|>\nsunny, 20 degrees<|observation|>\n"),
        ("glm4_moe", "<|observation|>\n<tool_response>\nsunny, 20 degrees\n</tool_response>\n<tool_response>\n"),
        ("glm4_7", "<|observation|><tool_response>sunny, 20 degrees</tool_response><tool_response>"),
    ],
)
def test_results_in_a_row_stand_as_the_maker_has_them(name, words, made_codec):
    assert words in made_codec(name).render(PROBES["results"]).text


def test_mimo_v2_has_no_line_break_between_messages(made_codec):
    text = made_codec("mimo_v2").render(PROBES["system"]).text
    assert text == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|><|im_start|>user\nHi<|im_end|>"
        "<|im_start|>assistant\n<think></think>Hello!<|im_end|>"
    )
