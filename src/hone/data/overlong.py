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

from hone.chat.encoded import IGNORE, Encoded
from hone.chat.message import Conversation, ToolCall
from hone.data.columns import RowError
from hone.data.cut import contents, keep_only, level_cut, windows
from hone.data.sample import Dialog, Passage, Sample
from hone.errors import DataError

OVERLONG_VERSION = "overlong-2"
"""Part of the token cache's key: raise it when the same sample would be cut otherwise."""
Encode = Callable[[Sample], Encoded]


@dataclass(frozen=True)
class Fitted:
    """What became of a sample: no sequence (dropped), one, or several (split); truncated where tokens went."""

    sequences: tuple[Encoded, ...]
    truncated: bool = False


def fit(sample: Sample, encoded: Encoded, *, cutoff_len: int, overlong: str, encode: Encode) -> Fitted:
    """The sample as sequences of at most cutoff_len tokens, by policy `overlong`.

    Raises RowError where nothing of it is learned or it cannot be cut to fit, DataError under policy "error".
    """
    if not encoded.num_trained:
        raise RowError("nothing to learn", "no token of it is trained")
    if len(encoded) <= cutoff_len:
        return Fitted((encoded,))
    if overlong == "drop":
        return Fitted(())
    if overlong == "error":
        raise DataError(
            f"a row has {len(encoded):,} tokens, cutoff_len is {cutoff_len:,}, and overlong is error; raise cutoff_len or choose "
            "drop, truncate_left, truncate_right or split"
        )
    if isinstance(sample, Passage):
        fitted = _passage(encoded, cutoff_len, overlong)
    else:
        fitted = _dialog(sample, encoded, cutoff_len, overlong, encode)
    learned = tuple(part for part in fitted.sequences if part.num_trained)
    if not learned:
        raise RowError("nothing to learn", "what is left after cutting has no trained token")
    return replace(fitted, sequences=learned)


def _passage(encoded: Encoded, cutoff_len: int, overlong: str) -> Fitted:
    if overlong == "split":
        return Fitted(tuple(windows(encoded, cutoff_len)))
    kept = slice(-cutoff_len, None) if overlong == "truncate_left" else slice(cutoff_len)
    return Fitted((Encoded(encoded.ids[kept], encoded.labels[kept]),), truncated=True)


def _dialog(sample: Dialog, encoded: Encoded, cutoff_len: int, overlong: str, encode: Encode) -> Fitted:
    turns = _Turns(sample.conversation, encoded)
    left = overlong == "truncate_left"
    if overlong != "split" or len(turns.trained) < 2:
        cut, _ = _shortened(turns, range(turns.count), cutoff_len, left, encode)
        return Fitted((cut,), truncated=True)
    parts = [_shortened(turns, part, cutoff_len, False, encode) for part in turns.parts(cutoff_len)]
    return Fitted(tuple(cut for cut, _ in parts), truncated=any(is_cut for _, is_cut in parts))


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


def _shortened(turns: _Turns, wanted: range, cutoff_len: int, left: bool, encode: Encode) -> tuple[Encoded, bool]:
    """The turns `wanted`, fewer where they must be, cut to the cutoff; and whether anything of them went."""
    asked, floor = wanted, max(cutoff_len // 8, 1)
    while True:
        whole = len(wanted) == turns.count
        conversation = turns.conversation if whole else turns.only(wanted)
        encoded = turns.encoded if whole else encode(Dialog(conversation))
        shorter = turns.without_one(wanted, left)
        stages = _STAGES[:1] if shorter is not None else _STAGES
        cut = _cut(conversation, encoded, cutoff_len, left, [(kind, floor if low is None else low) for kind, low in stages])
        if len(cut) <= cutoff_len:
            return cut, wanted != asked or len(cut) < len(encoded)
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
    answers, fixed = _answers(conversation, encoded), _calling(conversation)
    keep = np.ones(len(encoded), dtype=bool)
    for kind, floor in stages:
        groups = contents(encoded, lambda number, kind=kind: number not in fixed and (number in answers) == (kind == "answer"))
        groups = [places[keep[places]] for places in groups]
        cuts = level_cut([len(places) for places in groups], max(int(keep.sum()) - cutoff_len, 0), floor)
        for places, cut in zip(groups, cuts, strict=True):
            if cut:
                keep[places[:cut] if left and kind == "context" else places[-cut:]] = False
    return keep_only(encoded, keep)


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
