"""Hearing: the ids of one answer to Deltas as they are drawn, up to where the request says that it ends.

Does not know the model, nor who draws.
"""

from __future__ import annotations

from collections.abc import Sequence

from hone.chat.codec import Codec
from hone.chat.ending import Ending
from hone.chat.events import Event
from hone.chat.message import Message
from hone.chat.reading import message_of
from hone.chat.stream import Heard
from hone.inference.base import Delta, Request, Token


class Hearing:
    """`take(id, token)` for each id; once `ended` no more are wanted; `rest(...)` is the last Delta.

    ids: all that were taken. hidden: control tokens left out of what is said.
    """

    def __init__(self, codec: Codec, request: Request, prompt: Sequence[int], *, hidden: frozenset[int] = frozenset()):
        asked, steering = request.conversation, request.steering
        if isinstance(asked, str):
            self._words = codec.text_stream(hidden=hidden)
        else:
            self._words = codec.stream(tools=asked.tools, prompt=prompt, hidden=hidden)
        self._ending = Ending(steering.stop, one_call=steering.one_call)
        self._stop_ids = codec.stop_ids
        self._events: list[Event] = []
        self._tokens: list[tuple[int, Token]] = []  # not given yet, each with the characters that were said before it
        self.ids: list[int] = []

    @property
    def ended(self) -> bool:
        """Whether a stop text or a call has ended the answer."""
        return self._ending.ended

    @property
    def message(self) -> Message:
        """What was said until now."""
        return message_of(self._events)

    def take(self, id: int, token: Token | None = None) -> Delta:
        """The next id, with what is told of it."""
        said = self._ending.fed
        self.ids.append(id)
        heard = self._words.feed([id])
        if token is not None and id not in self._stop_ids:
            self._tokens.append((said, token))
        return self._delta(heard, self._ending.feed(heard.events))

    def rest(self) -> Delta:
        """What was held back, where nothing ended the answer."""
        if self.ended:
            return Delta("")
        heard = self._words.close()
        return self._delta(heard, [*self._ending.feed(heard.events), *self._ending.close()])

    def _delta(self, heard: Heard, events: list[Event]) -> Delta:
        self._events += events
        ending = self._ending
        # Nothing held: a token that said nothing (of a thought, of a call, half a character) is given too.
        given = [token for said, token in self._tokens if said < ending.given or ending.fed == ending.given]
        self._tokens = self._tokens[len(given) :]
        return Delta(heard.text, events=tuple(events), tokens=tuple(given))
