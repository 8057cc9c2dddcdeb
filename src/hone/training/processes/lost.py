"""Lost: to which process a broken connection led. gloo's errors name an address; people know ranks and machines.

Does not know what was being computed.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from pathlib import Path

from torch.distributed import DistError

from hone.training.processes.meeting import Card, Meeting, in_words

_ADDRESS = re.compile(r"\[([0-9a-fA-F.:]+)\]:\d+")
_ANSWER_SECONDS = 5.0
_DYING_SECONDS = 2.0
"""A process that ends loses its connections before the system takes it off its list."""

_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo/transport", "NCCL", "Socket Timeout")


def is_lost(problem: BaseException) -> bool:
    """Whether an error says that another process could not be reached any more."""
    return isinstance(problem, DistError) or (isinstance(problem, RuntimeError) and any(words in str(problem) for words in _LOST))


def whom(problem: str, meeting: Meeting) -> str:
    """Who an error's text is about, as "rank 3 on HOST (ADDRESS), process N"; "another process" where it cannot be told.

    Those that have ended on this machine are known for certain; of another machine all that have the address are named.
    """
    found = _cards(meeting)
    if isinstance(found, DistError):
        return f"{meeting.called} 0, whose store has gone with it,"
    others = [card for card in found if card.number != meeting.card.number]
    far = [card for card in others if card.address in _ADDRESS.findall(problem) and not _beside(card, meeting.card)]
    near = [card for card in others if _beside(card, meeting.card)]
    if ended := [] if far else _ended(near):
        return " and ".join(f"{meeting.called} {card.number} on {card}, process {card.process}," for card in ended[:4])
    meant = far or near
    if not meant or (not far and len(near) < len(others)):
        return "another process"
    one_of = "one of " * (len(meant) > 1)
    return f"{one_of}{in_words([card.number for card in meant], meeting.called)} on {meant[0]}"


def _cards(meeting: Meeting) -> list[Card] | DistError:
    """Everybody's card, none where the store does not answer: of a host that was cut off a question waits for minutes."""
    answer = list[list[Card] | DistError]()

    def ask() -> None:
        try:
            answer.append(meeting.cards())
        except DistError as problem:
            answer.append(problem)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_SECONDS)
    return answer[0] if answer else []


def _beside(card: Card, own: Card) -> bool:
    return (card.host, card.address) == (own.host, own.address)


def _ended(cards: list[Card]) -> list[Card]:
    end = time.monotonic() + _DYING_SECONDS
    while not (found := [card for card in cards if not lives(card.process)]) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def lives(process: int) -> bool:
    """Whether a process of this machine is there and is not merely a dead one's entry."""
    status = Path(f"/proc/{process}/stat")
    if status.parent.parent.joinpath("self").exists():
        with contextlib.suppress(OSError):
            return status.read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
