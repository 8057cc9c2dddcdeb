"""The overlong policy: what becomes of a sample longer than the cutoff. Answers keep their header and stop token, always.

Does not know files, templates or the cache: a shortened conversation is encoded anew by the function it is given.

Shortening a conversation, in this order, until it fits:
1. what users, tools and the system wrote is cut, the longest first, to no less than an eighth of the cutoff each;
2. whole turns go, the newest first (truncate_right) or the oldest first (truncate_left), while an answer to learn remains.
   A turn is a user's words and all up to the next user's; what stands before the first (the system message) stays;
3. answers are cut too, at their end, to no less than an eighth of the cutoff each;
4. the other contents are cut to nothing, then the answers to one token.
truncate_right cuts contents at their end, truncate_left at their start. A message with a tool call is never cut: what is left of
it would be no call. What does not fit even then is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from hone.chat.encoded import IGNORE, Encoded, Example
from hone.chat.message import Conversation, ToolCall
from hone.data.columns import RowError
from hone.data.cut import contents, keep_only, level_cut, windows
from hone.data.sample import Dialog, Labelled, Match, Pair, Passage, Rated, Sample, Task
from hone.errors import DataError

OVERLONG_VERSION = "overlong-2"
"""Part of the token cache's key: raise it when the same sample would be cut otherwise."""
Encode = Callable[[Sample], Example]
_Again = Callable[[Conversation], Encoded]


@dataclass(frozen=True)
class Fitted:
    """What became of a sample: no example (dropped), one, or several (split); truncated where tokens went."""

    examples: tuple[Example, ...]
    truncated: bool = False

    @property
    def sequences(self) -> tuple[Encoded, ...]:
        """Of all its examples, in order."""
        return tuple(sequence for example in self.examples for sequence in example.sequences)


def fit(sample: Sample, example: Example, *, cutoff_len: int, overlong: str, encode: Encode) -> Fitted:
    """The sample as examples whose sequences have at most cutoff_len tokens each, by policy `overlong`.

    Raises RowError where nothing of it is learned or it cannot be cut to fit, DataError under policy "error".
    """
    labelled = isinstance(sample, Passage | Dialog | Pair | Rated)
    if labelled and not all(sequence.num_trained for sequence in example.sequences):
        raise RowError("nothing to learn", "no token of it is trained")
    longest = max(map(len, example.sequences))
    if longest <= cutoff_len:
        return Fitted((example,))
    if overlong == "drop":
        return Fitted(())
    if overlong == "error":
        raise DataError(
            f"a row has {longest:,} tokens, cutoff_len is {cutoff_len:,}, and overlong is error; raise cutoff_len or choose "
            "drop, truncate_left, truncate_right or split"
        )
    fitted = _shorter(sample, example, cutoff_len, overlong, encode)
    learned = tuple(part for part in fitted.examples if not labelled or all(one.num_trained for one in part.sequences))
    if not learned:
        raise RowError("nothing to learn", "what is left after cutting has no trained token")
    return replace(fitted, examples=learned)


def _shorter(sample: Sample, example: Example, cutoff_len: int, overlong: str, encode: Encode) -> Fitted:
    left = overlong == "truncate_left"
    match sample:
        case Passage():
            return _passage(example, cutoff_len, overlong)
        case Dialog(conversation) if overlong == "split":
            return _split(conversation, example, cutoff_len, lambda talk: encode(Dialog(talk)).sequences[0])
        case Dialog(conversation):
            return _one(conversation, example, cutoff_len, left, lambda talk: encode(Dialog(talk)).sequences[0])
        case Rated(conversation, good):
            return _one(conversation, example, cutoff_len, left, lambda talk: encode(Rated(talk, good)).sequences[0])
        case Match() | Labelled():
            cut = tuple(clipped(sequence, cutoff_len, left) for sequence in example.sequences)
            return Fitted((replace(example, sequences=cut),), truncated=True)
        case Pair():
            return _pair(sample, example, cutoff_len, left, encode)
        case Task(conversation):
            cut = _cut(conversation, example.sequences[0], cutoff_len, left, [("context", 1)])
            if len(cut) > cutoff_len:
                raise RowError("cannot be cut to cutoff_len", _rest(conversation, example.sequences[0], cutoff_len))
            return Fitted((replace(example, sequences=(cut,)),), truncated=True)


def _passage(example: Example, cutoff_len: int, overlong: str) -> Fitted:
    (encoded,) = example.sequences
    if overlong == "split":
        return Fitted(tuple(Example((window,)) for window in windows(encoded, cutoff_len)))
    kept = slice(-cutoff_len, None) if overlong == "truncate_left" else slice(cutoff_len)
    return Fitted((Example((Encoded(encoded.ids[kept], encoded.labels[kept]),)),), truncated=True)


def _one(conversation: Conversation, example: Example, cutoff_len: int, left: bool, again: _Again) -> Fitted:
    turns = _Turns(conversation, example.sequences[0])
    cut = _shortened(turns, range(turns.count), cutoff_len, left, again)
    return Fitted((replace(example, sequences=(cut.encoded,)),), truncated=True)


def _split(conversation: Conversation, example: Example, cutoff_len: int, again: _Again) -> Fitted:
    turns = _Turns(conversation, example.sequences[0])
    if len(turns.trained) < 2:
        return _one(conversation, example, cutoff_len, False, again)
    parts = [(part, _shortened(turns, part, cutoff_len, False, again)) for part in turns.parts(cutoff_len)]
    truncated = any(cut.turns != part or not cut.keep.all() for part, cut in parts)
    return Fitted(tuple(replace(example, sequences=(cut.encoded,)) for _, cut in parts), truncated)


def _pair(pair: Pair, example: Example, cutoff_len: int, left: bool, encode: Encode) -> Fitted:
    """Both sides with one and the same question: it is cut as the longer side needs, then each answer by itself."""
    talks, sequences = [pair.chosen, pair.rejected], list(example.sequences)
    longer = max((0, 1), key=lambda side: len(sequences[side]))
    turns = _Turns(talks[longer], sequences[longer])
    cut = _shortened(turns, range(turns.count), cutoff_len, left, lambda talk: encode(Pair(talk, talk)).sequences[longer])
    other = _Turns(talks[1 - longer], sequences[1 - longer])
    talk = other.only(cut.turns)
    encoded = other.encoded if len(cut.turns) == other.count else encode(Pair(talk, talk)).sequences[1 - longer]
    start = _question_length(cut.whole)
    if start != _question_length(encoded) or (cut.whole.ids[:start] != encoded.ids[:start]).any():
        raise RowError("cannot be cut to cutoff_len", "the template writes the question of its two answers in two ways")
    keep = np.ones(len(encoded), dtype=bool)
    keep[:start] = cut.keep[:start]
    short = _cut(talk, keep_only(encoded, keep), cutoff_len, left, [("answer", 1)])
    if len(short) > cutoff_len:
        raise RowError("cannot be cut to cutoff_len", _rest(talk, short, cutoff_len))
    sides = (cut.encoded, short) if longer == 0 else (short, cut.encoded)
    return Fitted((replace(example, sequences=sides),), truncated=True)


def clipped(encoded: Encoded, cutoff_len: int, left: bool) -> Encoded:
    """A text of its own at most cutoff_len long; the tokens that the tokenizer puts around it stay."""
    surplus = len(encoded) - cutoff_len
    if surplus <= 0:
        return encoded
    places = np.concatenate(contents(encoded, lambda number: True))
    if surplus >= len(places):
        raise RowError("cannot be cut to cutoff_len", f"the tokenizer's own tokens alone leave no room: raise it ({cutoff_len})")
    keep = np.ones(len(encoded), dtype=bool)
    keep[places[:surplus] if left else places[-surplus:]] = False
    return keep_only(encoded, keep)


def _question_length(encoded: Encoded) -> int:
    """Tokens before the first that is learned."""
    return int(np.argmax(encoded.labels != IGNORE))


class _Turns:
    """A conversation seen as a head (all before the first user) and turns; costs are tokens, as the whole was encoded."""

    def __init__(self, conversation: Conversation, encoded: Encoded):
        self.conversation, self.encoded = conversation, encoded
        roles = [said.role for said in conversation.messages]
        users = [index for index, role in enumerate(roles) if role == "user" and (index == 0 or roles[index - 1] != "user")]
        self._starts = [*users, len(roles)]
        self.head = users[0] if users else len(roles)
        self.count = len(users)
        trained, costs = set(), [0] * self.count
        for piece in encoded.pieces:
            turn = self.turn_of(piece.message)
            if turn >= 0:
                costs[turn] += piece.end - piece.start
                if (encoded.labels[piece.start : piece.end] != IGNORE).any():
                    trained.add(turn)
        self.trained, self.costs = sorted(trained), costs
        self.head_cost = len(encoded) - sum(costs)

    def turn_of(self, message: int) -> int:
        """The turn a message belongs to; -1 for the head."""
        return int(np.searchsorted(self._starts[: self.count], message, side="right")) - 1

    def only(self, turns: range) -> Conversation:
        """The head and these turns."""
        said = self.conversation.messages
        body = said[self._starts[turns.start] : self._starts[turns.stop]] if len(turns) else ()
        return replace(self.conversation, messages=(*said[: self.head], *body))

    def parts(self, cutoff_len: int) -> list[range]:
        """Runs of turns that fit with the head, as long as can be, those with something to learn."""
        parts, start, cost = [], 0, self.head_cost
        for turn in range(self.count):
            if turn > start and cost + self.costs[turn] > cutoff_len:
                parts.append(range(start, turn))
                start, cost = turn, self.head_cost
            cost += self.costs[turn]
        parts.append(range(start, self.count))
        return [part for part in parts if any(turn in part for turn in self.trained)]

    def without_one(self, turns: range, left: bool) -> range | None:
        """One turn fewer, from the wanted end or else from the other, with a trained one left; None where none can go."""
        for shorter in (turns[1:], turns[:-1]) if left else (turns[:-1], turns[1:]):
            if any(turn in shorter for turn in self.trained):
                return shorter
        return None


@dataclass(frozen=True)
class _Short:
    """turns: those that are left; whole: their tokens before cutting, of which `keep` stay; encoded: these."""

    turns: range
    whole: Encoded
    keep: np.ndarray

    @property
    def encoded(self) -> Encoded:
        return keep_only(self.whole, self.keep)


def _shortened(turns: _Turns, wanted: range, cutoff_len: int, left: bool, again: _Again) -> _Short:
    """The turns `wanted`, fewer where they must be, cut to the cutoff."""
    floor = max(cutoff_len // 8, 1)
    while True:
        whole = len(wanted) == turns.count
        conversation = turns.conversation if whole else turns.only(wanted)
        encoded = turns.encoded if whole else again(conversation)
        shorter = turns.without_one(wanted, left)
        stages = _STAGES[:1] if shorter is not None else _STAGES
        keep = _kept(conversation, encoded, cutoff_len, left, [(kind, floor if low is None else low) for kind, low in stages])
        if keep.sum() <= cutoff_len:
            return _Short(wanted, encoded, keep)
        if shorter is None:
            raise RowError("cannot be cut to cutoff_len", _rest(conversation, encoded, cutoff_len))
        wanted = shorter


_STAGES: tuple[tuple[str, int | None], ...] = (("context", None), ("answer", None), ("context", 0), ("answer", 1))
"""What is cut, one after the other, and how much of each stays: None for the floor."""


def _rest(conversation: Conversation, encoded: Encoded, cutoff_len: int) -> str:
    """What is too long by itself."""
    fixed = _calling(conversation)
    num = sum(piece.end - piece.start for piece in encoded.pieces if piece.kind == "control" or piece.message in fixed)
    what = "the template's own tokens" + (" and the tool calls" if fixed else "")
    return f"{what} alone are {num}, and cutoff_len is {cutoff_len}: raise it"


def _cut(conversation: Conversation, encoded: Encoded, cutoff_len: int, left: bool, stages: list[tuple[str, int]]) -> Encoded:
    return keep_only(encoded, _kept(conversation, encoded, cutoff_len, left, stages))


def _kept(conversation: Conversation, encoded: Encoded, cutoff_len: int, left: bool, stages: list[tuple[str, int]]) -> np.ndarray:
    """Which tokens stay, as booleans, after the stages in turn until they fit."""
    answers, fixed = _answers(conversation, encoded), _calling(conversation)
    keep = np.ones(len(encoded), dtype=bool)
    for kind, floor in stages:
        groups = contents(encoded, lambda number, kind=kind: number not in fixed and (number in answers) == (kind == "answer"))
        groups = [places[keep[places]] for places in groups]
        cuts = level_cut([len(places) for places in groups], max(int(keep.sum()) - cutoff_len, 0), floor)
        for places, cut in zip(groups, cuts, strict=True):
            if cut:
                keep[places[:cut] if left and kind == "context" else places[-cut:]] = False
    return keep


def _calling(conversation: Conversation) -> set[int]:
    """The numbers of the messages that call tools."""
    return {number for number, said in enumerate(conversation.messages) if any(isinstance(part, ToolCall) for part in said.parts)}


def _answers(conversation: Conversation, encoded: Encoded) -> set[int]:
    """The numbers of the assistant's messages from which something is learned."""
    return {
        piece.message
        for piece in encoded.pieces
        if 0 <= piece.message < len(conversation.messages)
        and conversation.messages[piece.message].role == "assistant"
        and (encoded.labels[piece.start : piece.end] != IGNORE).any()
    }
