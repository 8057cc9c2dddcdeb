"""Forms: conversations that differ in nothing but their words have one rendering, which is made once for all of them.

Does not know any format. Only words that no format looks into have a form: plain texts without white space at their ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from hone.chat.marks import Outline, Rendered, check_unicode
from hone.chat.message import Conversation, Message, Role, Text, message
from hone.errors import TemplateError

Form = tuple[tuple[Role, bool | None, bool], ...]
"""Of each message its role, what it says of `train`, and whether it says anything."""


@dataclass(frozen=True)
class Mould:
    """A form's rendering: its outline, and for each of its contents the message that says it, or the words that all have."""

    outline: Outline
    contents: tuple[int | str, ...]

    def filled(self, conversation: Conversation) -> Rendered:
        """The rendering of a conversation of this form."""
        words = [one.text for one in conversation.messages]
        return Rendered(self.outline, [one if isinstance(one, str) else words[one] for one in self.contents])


class Forms:
    """`Forms(render).render(conversation, prompt)` is `render(conversation, prompt)`, most often without calling it."""

    def __init__(self, render: Callable[[Conversation, bool], Rendered]):
        self._render = render
        self._mould: Callable[[Form, bool], Mould | None] = lru_cache(maxsize=1024)(self._cast)

    def render(self, conversation: Conversation, prompt: bool) -> Rendered:
        """Raises TemplateError as `render` does."""
        form = form_of(conversation)
        mould = None if form is None else self._mould(form, prompt)
        return self._render(conversation, prompt) if mould is None else mould.filled(conversation)

    def _cast(self, form: Form, prompt: bool) -> Mould | None:
        """None where words are not written as they are, or an answer may end with them: then they tell whether it has ended."""
        said = [f"\ue000{number}\ue000" if says else "" for number, (_, _, says) in enumerate(form)]
        messages = (message(role, words, train=train) for (role, train, _), words in zip(form, said, strict=True))
        try:
            rendered = self._render(Conversation(tuple(messages)), prompt)
        except TemplateError:
            return None  # it is told of the conversation itself
        numbers = {words: number for number, words in enumerate(said) if words}
        contents = tuple(numbers.get(words, words) for words in rendered.contents)
        once = sorted(one for one in contents if isinstance(one, int)) == sorted(numbers.values())
        others = "".join(one for one in contents if isinstance(one, str))
        ended = all(segment.kind == "control" for segment in rendered.outline.answer_ends.values())
        return Mould(rendered.outline, contents) if once and ended and "\ue000" not in others else None


def form_of(conversation: Conversation) -> Form | None:
    """None of one in which there is more than words, or words that a format could write in another way than they are."""
    if conversation.tools:
        return None
    found = []
    for one in conversation.messages:
        if not _is_plain(one):
            return None
        found.append((one.role, one.train, one.text != ""))
    return tuple(found)


def _is_plain(one: Message) -> bool:
    if one.role == "tool" or len(one.parts) != 1 or not isinstance(one.parts[0], Text):
        return False
    words = one.parts[0].text
    try:
        check_unicode(words)
    except TemplateError:
        return False  # told where it is written
    return not words or not (words[0].isspace() or words[-1].isspace() or "</think>" in words)
