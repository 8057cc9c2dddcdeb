"""Settings of drawing answers: in chat, api and evaluation, and where a stage learns from its own.

Does not know who draws them.
"""

from __future__ import annotations

from hone.config.section import Section, knob


class GenerateConfig(Section):
    """How answers are drawn."""

    do_sample: bool = knob(
        True, "Draws each token at random by its probability; false takes the likeliest one, so that answers repeat exactly."
    )
    temperature: float = knob(
        0.95,
        "Sharpens (below 1) or flattens (above 1) the probabilities. Lower it for facts, raise it for ideas. "
        "Also of the answers that stage: grpo, ppo or gkd learns from, where 1 is the default.",
        gt=0,
    )
    top_p: float = knob(
        0.7,
        "Draws only from the likeliest tokens that have this probability together. 1 draws from all, which is the default "
        "with stage: grpo, ppo or gkd.",
        gt=0,
        le=1,
    )
    top_k: int = knob(
        50,
        "Draws only from this many likeliest tokens; 0 draws from all, which is the default with stage: grpo, ppo or gkd.",
        ge=0,
    )
    num_beams: int = knob(
        1,
        "Follows this many beginnings of an answer at once and keeps the likeliest (beam search). Slower, and the answer "
        "comes only when it is complete; mostly used with do_sample: false.",
        gt=0,
        level="advanced",
    )
    max_length: int = knob(
        1024, "Longest prompt and answer together; used where max_new_tokens is 0.", unit="tokens", gt=0, level="advanced"
    )
    max_new_tokens: int = knob(
        1024,
        "Longest answer. Raise it where answers are cut off. With stage: grpo, ppo or gkd the default is 256.",
        unit="tokens",
        ge=0,
    )
    repetition_penalty: float = knob(
        1.0, "Above 1 it discourages tokens that came before. 1.05 to 1.2 against loops.", gt=0, level="advanced"
    )
    length_penalty: float = knob(1.0, "In a beam search, above 0 favours long answers and below 0 short ones.", level="advanced")
    skip_special_tokens: bool = knob(
        True,
        "Leaves special tokens out of what an answer says, in the terminal and in the API; those that tell thoughts and calls "
        "are read all the same. Turn it off to see what the model really wrote.",
        level="advanced",
    )
