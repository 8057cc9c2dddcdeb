"""Meeting: the processes of a run, or its machines, find each other at a store before any of them waits in a collective.

Does not know what is compared. Time is each process's own monotonic clock: clocks of machines need not agree.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from torch.distributed import DistError, PrefixStore, Store

from hone import log
from hone.ages import Ages
from hone.errors import TrainingError
from hone.training.processes.address import own_address
from hone.training.processes.store import open_store

_BEAT_SECONDS, _POLL_SECONDS = 2.0, 0.05
_SILENT_SECONDS = 60.0
"""A process whose heart has not been seen to beat for so long is taken for dead or stuck."""
_CLAIM_SECONDS = 10.0
"""An earlier start of the run may still be ending, and hold the numbers of this one."""


@dataclass(frozen=True)
class Card:
    """Who somebody is. about: what must be equal, by name; token: of this member alone, as containers share names and numbers."""

    number: int
    host: str
    address: str
    process: int
    about: dict[str, str]
    token: str = ""

    def __str__(self) -> str:
        return f"{self.host} ({self.address})"


class Meeting:
    """`count` members at one store. called: "rank" or "machine". The first one leads: it judges, and the others hear of it.

    seconds: how long members wait for each other where each is expected at once.
    """

    def __init__(self, store: Store | None, card: Card, count: int, *, called: str, seconds: float):
        self.card, self.count, self.called, self.seconds = card, count, called, seconds
        self.store = store
        self._store = PrefixStore(f"hone/{called}", store) if store is not None else None
        self._quiet = threading.Event()

    def claim(self) -> str:
        """Take this member's number: "", or who has it already."""
        assert self._store is not None, "a member alone claims nothing"
        mine = json.dumps(asdict(self.card))
        holder = self._store.compare_set(f"card/{self.card.number}", "", mine).decode()
        return "" if holder == mine else str(Card(**json.loads(holder))) + f", process {json.loads(holder)['process']}"

    def cards(self) -> list[Card]:
        """Everybody's card, asked for at once; all have come."""
        if self._store is None:
            return [self.card]
        return [Card(**json.loads(text)) for text in self._store.multi_get([f"card/{number}" for number in range(self.count)])]

    def card_of(self, number: int) -> Card:
        """The card of a member that has come."""
        if self._store is None or number == self.card.number:
            return self.card
        return Card(**json.loads(self._store.get(f"card/{number}")))

    def say(self, name: str, text: str) -> None:
        """Lay a text of this member out for the leader."""
        if self._store is not None:
            self._store.set(f"{name}/{self.card.number}", text)

    def heard(self, name: str, number: int) -> str:
        """The text that a member laid out."""
        assert self._store is not None, "nobody else is here"
        return self._store.get(f"{name}/{number}").decode()

    def beat(self) -> None:
        """From now on, until `rest`, show the others that this process lives."""
        if self._store is not None:
            threading.Thread(target=self._beat, name="heart", daemon=True).start()

    def rest(self) -> None:
        """No longer."""
        self._quiet.set()

    def _beat(self) -> None:
        assert self._store is not None, "a heart beats for others"
        with contextlib.suppress(DistError):  # the store has gone, and with it those who looked
            while not self._quiet.wait(_BEAT_SECONDS):
                self._store.add(f"heart/{self.card.number}", 1)

    def wait(self, point: str, *, prompt: bool = False, judge: Callable[[], str] = str) -> None:
        """Until all have come to `point`, and the leader's judgement, "" where all is well, else a TrainingError on all.

        prompt: all should be there within `seconds`; else for as long as those that are missing live.
        """
        if self._store is None:
            return
        self._store.add(f"{point}/came/{self.card.number}", 1)
        self._store.add(f"{point}/number", 1)
        try:
            verdict = self._lead(point, prompt, judge) if self.card.number == 0 else self._follow(point)
        except DistError as problem:
            raise TrainingError(
                f"{self.called} 0 has gone while {self.called} {self.card.number} on {self.card} waited for the others "
                f"({point}): what it said before it ended is the cause, or it cannot be reached any more"
            ) from problem
        if verdict:
            raise JointError(verdict)

    def _lead(self, point: str, prompt: bool, judge: Callable[[], str]) -> str:
        assert self._store is not None, "nobody is led"
        started, verdict, hearts = time.monotonic(), "", _Hearts(self._store)
        while not verdict and self._store.add(f"{point}/number", 0) < self.count:
            _pause(started)
            if prompt and time.monotonic() - started > self.seconds:
                verdict = self._missing(point)
            elif not prompt and (silent := hearts.silent(self._absent, point)):
                verdict = (
                    f"{self._named(silent)} gave no sign of life for {_SILENT_SECONDS:.0f} s ({point}): dead, stuck or cut off"
                )
        verdict = verdict or judge()
        self._store.set(f"{point}/verdict", verdict)
        if verdict:  # the store ends with this process: let the others read first
            end, here = time.monotonic() + 3, self.count - len(self._absent(point)) - 1
            while self._store.add(f"{point}/read", 0) < here and time.monotonic() < end:
                time.sleep(_POLL_SECONDS)
        return verdict

    def _follow(self, point: str) -> str:
        assert self._store is not None, "nobody is followed"
        started, hearts = time.monotonic(), _Hearts(self._store)
        while not self._store.check([f"{point}/verdict"]):
            _pause(started)
            if hearts.silent(lambda _: [0], point):
                return f"{self._named([0])} gave no sign of life for {_SILENT_SECONDS:.0f} s ({point}): dead, stuck or cut off"
        verdict = self._store.get(f"{point}/verdict").decode()
        self._store.add(f"{point}/read", 1)
        return verdict

    def _absent(self, point: str) -> list[int]:
        assert self._store is not None, "nobody is absent"
        return [number for number in range(self.count) if not self._store.check([f"{point}/came/{number}"])]

    def _missing(self, point: str) -> str:
        absent = self._absent(point)
        come = sorted({str(self.card_of(number)) for number in range(self.count) if number not in absent})
        there = f"{', '.join(come[:8])}{' and more' if len(come) > 8 else ''}"
        return (
            f"{self._named(absent)} did not come within {self.seconds:.0f} s (join_timeout); {self.count - len(absent)} of "
            f"{self.count} came, on {there}. See that the command runs there, with this MASTER_ADDR and MASTER_PORT, and what it "
            "said"
        )

    def _named(self, numbers: list[int]) -> str:
        """ "ranks 2, 3" with the machine of each that has shown its card."""
        assert self._store is not None, "nobody is named"
        known = [number for number in numbers if self._store.check([f"card/{number}"])]
        places = sorted({str(self.card_of(number)) for number in known})
        return in_words(numbers, self.called) + (f" on {', '.join(places[:8])}" if places else "")

    @contextlib.contextmanager
    def within(self, what: str, hint: str) -> Iterator[None]:
        """What is done within must end in `seconds`; else who is not done is told, and the process ends."""
        if self._store is None:
            yield
            return
        timer = threading.Timer(self.seconds, self._give_up, (what, hint))
        timer.daemon = True
        timer.start()
        try:
            yield
        except RuntimeError as problem:  # gloo's and NCCL's errors; ours are none
            reason = str(problem).splitlines()[0][:300]
            who = f"{self.called} {self.card.number} on {self.card}"
            raise TrainingError(f"{what} failed for {who}: {reason}. {hint}") from problem
        finally:
            timer.cancel()
        with contextlib.suppress(DistError):
            self._store.add(f"{what}/came/{self.card.number}", 1)

    def _give_up(self, what: str, hint: str) -> None:
        who = f"rank {self.card.number} on {self.card}"
        with contextlib.suppress(DistError):
            absent = self._absent(what)
            who = self._named(absent) if len(absent) < self.count else "every rank"
        log.failure(f"hone: {what} did not end within {self.seconds:.0f} s (join_timeout) for {who}. {hint}")
        os._exit(1)


def _pause(since: float) -> None:
    """Between two looks at the store: the longer one waits already, the longer, as a thousand others look at it too."""
    time.sleep(min(1.0, max(_POLL_SECONDS, (time.monotonic() - since) / 20)))


class JointError(TrainingError):
    """What every member of a meeting was told: one a machine tells it to the user."""


class _Hearts:
    """Which members' hearts stand still, by this process's own clock."""

    def __init__(self, store: Store):
        self._store, self._ages, self._looked = store, Ages(), time.monotonic()

    def silent(self, whom: Callable[[str], list[int]], point: str) -> list[int]:
        """Those of `whom(point)` that have not beaten for too long; looked at every few seconds."""
        now = time.monotonic()
        if now - self._looked < 2 * _BEAT_SECONDS:
            return []
        self._looked = now
        beats = {number: self._store.add(f"heart/{number}", 0) for number in whom(point)}
        return [number for number, count in beats.items() if self._ages.of(number, count) > _SILENT_SECONDS]


def alone(called: str) -> Meeting:
    """A meeting of one, at which nothing waits."""
    return Meeting(None, Card(0, socket.gethostname(), "127.0.0.1", os.getpid(), {}), 1, called=called, seconds=0)


@dataclass(frozen=True)
class Member:
    """Who comes to a meeting. about: what is compared, by name; details: what is read where something differs."""

    called: str
    number: int
    count: int
    about: dict[str, str]
    details: str = ""


def meet(
    member: Member, *, address: str, port: int, seconds: float, agent: bool = False, judge: Callable[[Meeting], str]
) -> Meeting:
    """Come to the meeting at address:port, which the first member opens, and wait for everybody; the first one judges.

    agent: torchrun's store stands there, from which the first member's own is learned: one a start, so that what an earlier
    start of the same run left in torchrun's is never read. Raises TrainingError that names who or what is missing.
    """
    mine = own_address(address)
    card = Card(member.number, socket.gethostname(), mine, os.getpid(), member.about, uuid.uuid4().hex)
    started = time.monotonic()
    while True:
        left = max(5.0, seconds - (time.monotonic() - started))
        store = open_store(address, port, leads=member.number == 0, agent=agent, mine=mine, seconds=left)
        meeting = Meeting(store, card, member.count, called=member.called, seconds=seconds)
        if not (holder := meeting.claim()):
            break
        if time.monotonic() - started > min(seconds, _CLAIM_SECONDS):
            raise TrainingError(
                f"{member.called} {member.number} is taken by {holder}: two have the same number (NODE_RANK, RANK), or another "
                f"run uses {address}:{port}; set MASTER_PORT to another number on all machines"
            )
        time.sleep(0.5)
    meeting.say("details", member.details)
    meeting.beat()
    meeting.wait("the start", prompt=True, judge=functools.partial(judge, meeting))
    return meeting


def in_words(numbers: list[int], called: str) -> str:
    """ "rank 1" or "ranks 1, 2"."""
    more = f" and {len(numbers) - 16} more" if len(numbers) > 16 else ""
    return f"{called}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:16]))}{more}"
