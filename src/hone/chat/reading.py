"""Reading: the text of an answer to a message, with its thoughts and calls.

Does not know tokens: control tokens come marked by the codec.
"""

from __future__ import annotations

from dataclasses import dataclass

from hone.chat.dialects.dialect import Dialect, Mark
from hone.chat.message import Message, Part, Think


def same(marker: str) -> str:
    """The mark of plain text: a marker is searched for as it is spelled."""
    return marker


@dataclass(frozen=True)
class Reading:
    """lead, tail: text the format puts around an answer; opens_thought: the prompt has already opened a thought;

    plain_thoughts: thoughts are ordinary text here, even where the tokenizer has tokens for them; think_open, think_close: the
    words around a thought.
    """

    dialect: Dialect
    lead: str = ""
    tail: str = ""
    opens_thought: bool = False
    plain_thoughts: bool = False
    think_open: str = "<think>"
    think_close: str = "</think>"

    def message(self, text: str, mark: Mark = same) -> Message:
        """An assistant's message of what `text` says; a thought that was not closed is a thought to the end."""
        said = (text if self.dialect.reads_lead else text.removeprefix(self.lead)).removesuffix(self.tail)
        thought, said = self._thought(said, mark)
        parts: list[Part] = [Think(thought)] if thought.strip() else []
        parts += self.dialect.read(said, mark) if said or not parts else []
        return Message("assistant", tuple(parts))

    def _thought(self, text: str, mark: Mark) -> tuple[str, str]:
        """The thought and what is said after it. Without its closing word, a thought the prompt opened counts as said."""
        spelled = same if self.plain_thoughts else mark
        opening, closing = spelled(self.think_open), spelled(self.think_close)
        opened = text.lstrip().startswith(opening)
        if not opened and not (self.opens_thought and closing in text):
            return "", text
        thought, _, rest = text.lstrip().removeprefix(opening).partition(closing)
        return thought.strip("\n"), rest.lstrip("\n")
