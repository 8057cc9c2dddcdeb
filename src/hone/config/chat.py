"""Settings of the chat format: which template, which system prompt, what becomes of thoughts.

Knows no template: names are checked where templates are.
"""

from __future__ import annotations

from hone.config.section import Section, knob


class ChatConfig(Section):
    """How a conversation becomes text, in training and in every other use of the model."""

    template: str | None = knob(
        None,
        "Name of the chat format, such as llama3 or qwen. Leave it out to use the format the tokenizer itself "
        "carries, which is right for models that were tuned for chat; a base model without one needs a name.",
        example="llama3",
    )
    default_system: str | None = knob(
        None,
        "System prompt for conversations that have none; replaces the template's own default. An empty text means no "
        "system prompt at all.",
        example="You answer in one sentence.",
    )
    tool_format: str | None = knob(
        None,
        "Way in which tools are described and called, by the name of the template it belongs to; replaces the "
        "template's own. Change it only where a model was tuned for another one.",
        level="advanced",
        example="qwen",
    )
    enable_thinking: bool | None = knob(
        True,
        "For models that think before they answer: true lets them think, false makes them answer at once, null "
        "follows each example as it is. Without a template, what you write is told to the tokenizer's own format, and "
        "left out (or null) that format decides, as it does for everybody who says nothing.",
        example="false",
        left_out=True,
    )
    preserve_thinking: bool = knob(
        False,
        "Keeps the thoughts of earlier answers in the history. Left off, only the last answer's thoughts are kept, "
        "which is how most thinking models were trained. Without a template it is told to the tokenizer's own format "
        "where you write it.",
        level="advanced",
        left_out=True,
    )
