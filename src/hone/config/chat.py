"""Settings of the chat format: which template, which system prompt, what becomes of thoughts.

Knows no template: names are checked where templates are.
"""

from __future__ import annotations

from hone.config.section import Section, knob


class ChatConfig(Section):
    """How a conversation becomes text, in training and in every other use of the model."""

    template: str | None = knob(None, "Name of the chat format. Leave it out to use the format the tokenizer itself carries.")
    default_system: str | None = knob(None, "System prompt for conversations that have none; replaces the template's own default.")
    tool_format: str | None = knob(None, "Way tools are described and called; replaces the template's own.", level="advanced")
    enable_thinking: bool | None = knob(
        True, "For models that think: true lets them think, false answers without, null follows each example as it is."
    )
    preserve_thinking: bool = knob(False, "Keep the thoughts of earlier answers in the history instead of dropping them.")
