"""Codec: the one text path. Conversations to ids with what is learned, prompts to ids, answers back to messages.

Does not know the model, the data or any single format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hone.chat.encoded import IGNORE, Encoded, Piece
from hone.chat.encoding import Encoder
from hone.chat.marks import Outline, Rendered, Segment, check_unicode, content_mark
from hone.chat.media import expand
from hone.chat.message import Conversation, Message, message
from hone.chat.reading import Tools
from hone.chat.shown import Reader
from hone.chat.stream import Decoder, Stream
from hone.chat.template import Template, adds_bos, load_template
from hone.chat.tokens import Place, Tokens
from hone.config.chat import ChatConfig
from hone.errors import TemplateError

Learn = Literal["answers", "last", "all"]


class Codec:
    """`codec.encode([conversation])[0].ids`; made by `build_codec`. Raises TemplateError for what cannot be written."""

    def __init__(self, tokenizer: Any, template: Template, tokens: Tokens | None = None, reader: Reader | None = None):
        self.tokenizer, self.template, self.reader = tokenizer, template, reader
        self._tokens = tokens or Tokens(tokenizer)
        self._asked: dict[bool, Codec] = {}
        self._encode = Encoder(self._tokens).encode
        self._decoder = Decoder(self._tokens, template.reading, self.stop_ids, lambda: self._answer_place)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return tuple(dict.fromkeys(self._tokens.control[word].id for word in self.template.stop if word in self._tokens.control))

    @cached_property
    def closing(self) -> tuple[int, ...]:
        """Ids that a conversation still ends with after its last answer's stop token: a line's end, or nothing."""
        whole = self.encode([Conversation((message("user", "a"), message("assistant", "a")))], learn="last")[0]
        return tuple(whole.ids[int(np.flatnonzero(whole.labels != IGNORE)[-1]) + 1 :].tolist())

    def asked_to_think(self, enable: bool | None) -> Codec:
        """The codec of another enable_thinking, for one conversation; None: this one."""
        if enable is None:
            return self
        if enable not in self._asked:
            self._asked[enable] = Codec(self.tokenizer, self.template.asked_to_think(enable), self._tokens, self.reader)
        return self._asked[enable]

    @cached_property
    def thinks_on_demand(self) -> bool:
        """Whether the format asks in one way for an answer with a thought, and in another for one without."""
        asked = Conversation((message("user", "a"),))
        return self.asked_to_think(True).prompt(asked) != self.asked_to_think(False).prompt(asked)

    @property
    def control(self) -> tuple[str, ...]:
        """The spellings of the tokenizer's control tokens."""
        return tuple(self._tokens.control)

    def control_ids(self, conversation: Conversation) -> list[int]:
        """The control tokens among a conversation's ids, in order."""
        return [token for token in self.encode([conversation])[0].ids.tolist() if token in self._tokens.name_of]

    @cached_property
    def fingerprint(self) -> str:
        """A hexadecimal sha256 that changes whenever the ids of a conversation may."""
        facts = (self.template.source, self._tokens.json, *([self.reader.fingerprint] if self.reader else []))
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write what a model is used with beside its weights: the tokenizer's files and, of what it is shown, the processor's."""
        self.tokenizer.save_pretrained(folder)
        if self.reader is not None:
            self.reader.save(folder)

    @property
    def media(self) -> frozenset[str]:
        """The kinds of pictures, films and sounds that can be told to the model."""
        return frozenset(self.reader.tokens if self.reader else ()) & self.template.media

    def _refuse_media(self, conversation: Conversation) -> Conversation:
        """Raises TemplateError for media that this model does not take."""
        for part in conversation.media:
            if part.kind not in self.media:
                taken = " and ".join(["text", *sorted(self.media)]) if self.media else "text alone"
                reads = bool(self.reader) and part.kind in self.reader.tokens
                hint = f" with template {self.template.name}, which has no place for it; name another" if reads else ""
                raise TemplateError(f"the conversation holds {part.kind} content, and this model takes {taken}{hint}")
        return conversation

    def render(self, conversation: Conversation) -> Rendered:
        """The text a conversation is learned from, in segments."""
        self._refuse_media(conversation)
        return self.template.render(conversation)

    def examples(self, conversation: Conversation) -> list[Conversation]:
        """The conversations from which each answer to learn is learned once, written as it is sampled.

        One, unless the template rewrites earlier answers (drops their thoughts): then one for each such answer too, which ends
        with it. Raises TemplateError for what cannot be written.
        """
        messages = self._refuse_media(conversation).messages
        left = {i for i, one in enumerate(messages) if one.role == "assistant" and one.train is not False}
        if left <= {len(messages) - 1}:
            return [conversation]
        found: list[Conversation] = []
        end = len(messages)
        while True:
            upto = replace(conversation, messages=messages[:end])
            # The last answer is written as it was said: nothing follows it.
            unlearned = left & self.template.rewritten(upto) if left - {end - 1} else set()
            # What else is learned (a question that says so) is learned in the whole conversation alone.
            kept = (set(range(end)) if end == len(messages) else left) - unlearned
            if kept & left or not unlearned:
                found.append(_only(upto, kept))
            if not unlearned:
                return found[::-1]
            left, end = unlearned, max(unlearned) + 1

    def encode(self, conversations: Sequence[Conversation], learn: Learn = "answers") -> list[Encoded]:
        """One sequence a conversation, all of them tokenised in one batch.

        learn: "answers" all of the assistant's messages (a message's own `train` overrules), "last" the last of them, "all" every
        token.
        """
        rows = [_learned(self.template.render(self._refuse_media(one)), one, learn) for one in conversations]
        encoded = self._encode(rows, everything=learn == "all")
        return [self._shown(one, talk) for one, talk in zip(encoded, conversations, strict=True)]

    def _shown(self, encoded: Encoded, conversation: Conversation) -> Encoded:
        """With the ids that stand for the conversation's media."""
        return encoded if self.reader is None else expand(encoded, conversation.media, self.reader, self.template.name)

    def prompt(self, conversation: Conversation) -> list[int]:
        """The ids the model continues to give its next answer."""
        return self.encode_prompt(conversation).ids.tolist()

    def encode_prompt(self, conversation: Conversation) -> Encoded:
        """The same with its pieces, so that it can be cut; nothing of it is learned."""
        rendered = self.template.render(self._refuse_media(conversation), prompt=True)
        (encoded,) = self._encode([rendered], everything=False)
        return self._shown(replace(encoded, labels=np.full_like(encoded.labels, IGNORE)), conversation)

    def encode_text(self, texts: Sequence[str]) -> list[Encoded]:
        """Pretraining: bos where the tokenizer adds one, the text, end of text; all of it is learned.

        Raises TemplateError for text that is not valid Unicode.
        """
        for text in texts:
            check_unicode(text)
        end = self.template.passage_end or self.tokenizer.eos_token
        if not end:
            raise TemplateError("the tokenizer has no eos token to end a text with")
        empty, full = self._passages(Segment(end, "control", 0, True))
        return self._encode([Rendered(full if text else empty, (text,)) for text in texts], everything=True)

    def text_prompt(self, text: str) -> list[int]:
        """The ids the model continues to go on with a text: bos where the tokenizer adds one, the text, all of it content.

        Raises TemplateError for text that is not valid Unicode, and where nothing is left to continue.
        """
        check_unicode(text)
        empty, full = self._passages()
        (encoded,) = self._encode([Rendered(full if text else empty, (text,))], everything=True)
        if not len(encoded):
            raise TemplateError("the text is empty, and this tokenizer begins a text with no token: there is nothing to continue")
        return encoded.ids.tolist()

    def _passages(self, *tail: Segment) -> tuple[Outline, Outline]:
        """Of a text by itself, behind bos where the tokenizer adds one: of an empty one, and of any other."""
        head = (Segment(self.tokenizer.bos_token, "control", -1, False),) if adds_bos(self.tokenizer) else ()
        return Outline((*head, *tail)), Outline((*head, Segment(content_mark(0), "content", 0, True), *tail))

    def encode_plain(self, texts: Sequence[str]) -> list[Encoded]:
        """Each text as the tokenizer by itself encodes it, with the tokens that it puts around a text; nothing is learned.

        A text that spells a control token is read as text, where the tokenizer would read the token. Raises TemplateError for
        text that is not valid Unicode.
        """
        for text in texts:
            check_unicode(text)
        alone = Outline((Segment(content_mark(0), "content", 0, False),))
        plain = self._encode([Rendered(alone, (text,)) for text in texts], everything=False)
        return [_within(self._around, one) for one in plain]

    def encode_written(self, texts: Sequence[str], *, limit: int | None = None) -> list[Encoded]:
        """Texts in which somebody has written the format already: control tokens that they spell are read as such.

        limit: tokens at which each is cut. Nothing is put around a text, and nothing is learned. Raises TemplateError for text
        that is not valid Unicode.
        """
        for text in texts:
            check_unicode(text)
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"][:limit] for text in texts]
        return [Encoded(np.array(ids, dtype=np.int32), np.full(len(ids), IGNORE, dtype=np.int32)) for ids in rows]

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """Ids of the control tokens that the tokenizer puts before and behind a text."""
        found = self.tokenizer("a", return_special_tokens_mask=True)
        ids, mask = found["input_ids"], found["special_tokens_mask"]
        return ids[: mask.index(0)], ids[len(mask) - mask[::-1].index(0) :]

    def text_of(self, ids: Sequence[int]) -> str:
        """What stands in ids of an answer, control tokens spelled out."""
        return self._decoder.text(ids)

    def thought_is_open(self, ids: Sequence[int]) -> bool:
        """Whether a prompt of `ids` ends inside a thought."""
        return bool(self._decoder.opened(ids))

    def thought_is_closed(self, ids: Sequence[int]) -> bool:
        """Whether the last of an answer's `ids` closes a thought."""
        return self._decoder.closed(ids)

    def parse(self, ids: Sequence[int], *, tools: Tools = (), prompt: Sequence[int] = ()) -> Message:
        """The assistant's message that `ids`, sampled after a prompt, say; stop tokens at the end are not part of it.

        tools: those on offer, whose schemas tell the types of arguments that a dialect writes bare. prompt: the ids that were
        asked, which tell whether a thought was opened; without them the format's usual way is assumed.
        """
        return self._decoder.message(ids, tools, prompt)

    def stream(self, *, tools: Tools = (), prompt: Sequence[int] = (), hidden: frozenset[int] = frozenset()) -> Stream:
        """A parser that is fed ids as they are sampled and gives text and events as soon as they are certain; see `parse`.

        hidden: control tokens left out of what is said.
        """
        return Stream(self._decoder, tools, prompt, hidden)

    def text_stream(self, *, hidden: frozenset[int] = frozenset()) -> Stream:
        """The same for what continues a text (`text_prompt`): it is read for neither thoughts nor calls."""
        return Stream.of_text(self._decoder, hidden)

    @cached_property
    def _answer_place(self) -> Place:
        asked = self.prompt(Conversation((message("user", "a"),)))
        return "after" if asked and asked[-1] in self._tokens.name_of else "middle"


def _within(around: tuple[list[int], list[int]], text: Encoded) -> Encoded:
    """A text that is not learned, with control tokens before and behind it."""
    head, tail = (np.array(ids, dtype=np.int32) for ids in around)
    ids, end = np.concatenate([head, text.ids, tail]), len(head) + len(text)
    borders = [(0, len(head), "control", -1), (len(head), end, "content", 0), (end, len(ids), "control", 0)]
    pieces = [Piece(*border) for border in borders if border[1] > border[0]]
    return Encoded(ids, np.full_like(ids, IGNORE), partial(tuple, pieces))


def _only(conversation: Conversation, kept: set[int]) -> Conversation:
    """The conversation with nothing learned of the other messages."""
    kept_or_not = ((index in kept, one) for index, one in enumerate(conversation.messages))
    return replace(conversation, messages=tuple(one if keep else replace(one, train=False) for keep, one in kept_or_not))


def _learned(rendered: Rendered, conversation: Conversation, learn: Learn) -> Rendered:
    if learn != "last":
        return rendered
    last = max((i for i, one in enumerate(conversation.messages) if one.role == "assistant"), default=-1)
    return replace(rendered, outline=_of_message(rendered.outline, last))


@lru_cache(maxsize=1024)
def _of_message(outline: Outline, message: int) -> Outline:
    """The outline with nothing learned but of one message."""
    return Outline(tuple(replace(one, trained=one.trained and one.message == message) for one in outline.segments))


def build_codec(chat: ChatConfig, tokenizer: Any, *, family: str = "", reader: Reader | None = None) -> Codec:
    """The codec of the settings' template, or of the tokenizer's own where they name none; `family` as for load_template.

    reader: prepares pictures, films and sounds for the model; None for a model of text alone.
    """
    return Codec(tokenizer, load_template(chat, tokenizer, family), reader=reader)
