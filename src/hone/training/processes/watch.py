"""Watch: a thread in every process of a run that finds a dead or stuck one, names it, and ends all of them.

Does not know what is computed. It talks through torchrun's store, beside the work: no collective is added to a step.
Ages are told by the watching process's own monotonic clock: clocks of machines need not agree, nor stand still.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.distributed import DistError, PrefixStore, TCPStore

from hone import log
from hone.ages import Ages
from hone.errors import TrainingError
from hone.training.processes.lost import is_lost, lives
from hone.training.processes.pulse import PULSE

_LONGEST_TICK = 5.0
_DETAILS_SECONDS, _RESCUE_SECONDS = 5.0, 120.0
"""How long the others are waited for, to tell their stacks, and to let rank 0 write a checkpoint."""
_LOST_SECONDS = 30.0
"""How long after the store has gone the work itself may take to find out that its company has."""


@dataclass(frozen=True)
class Sign:
    """What a process shows of itself. ticks: of its watch; ended: it has left the run by itself."""

    rank: int
    host: str
    process: int
    ticks: int
    step: int
    place: int
    doing: str
    limited: bool
    ended: bool = False

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} (process {self.process})"


class Watch:
    """`with Watch(...)` around the work of a rank.

    seconds: how long a process may stay at one place; 0 watches nothing. name_rows: data-set indices to words.
    rescue: writes a checkpoint of the last finished step by this process alone, and tells where, "" where it cannot.
    name_lost: who the text of an error about a broken connection is about.
    """

    def __init__(
        self, rank: int, world: int, seconds: float, folder: Path, *, name_rows: Callable[[list[int]], str],
        rescue: Callable[[], str], name_lost: Callable[[str], str],
    ):  # fmt: skip
        self._rank, self._world, self._seconds, self._folder = rank, world, seconds, folder
        self._name_rows, self._rescue, self._name_lost = name_rows, rescue, name_lost
        self._tick_seconds = min(_LONGEST_TICK, max(0.1, seconds / 8))
        self._quiet, self._rescued = threading.Event(), threading.Lock()
        self._seen, self._ages, self._still = dict[int, Sign](), Ages(), Ages()
        self._ticks = 0
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._stacks = folder / f".stacks-{rank}.txt"

    def __enter__(self) -> Self:
        if self._world > 1 and self._seconds:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        del kind, trace
        self._quiet.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        if problem is not None and self._world > 1 and is_lost(problem):
            raise TrainingError(
                f"{self._name_lost(str(problem))} has gone or cannot be reached any more: step {PULSE.step} could not be "
                f"finished ({str(problem).splitlines()[0][:200]}). {self._saved()}"
            ) from problem

    def _saved(self) -> str:
        """Rescue what can be, once; in words."""
        with self._rescued:
            where = self._rescue() if self._rank == 0 and PULSE.safe else ""
            PULSE.safe = False
        done = f"The last finished step is saved in {where}. " if where else ""
        return f"{done}The same command continues from the newest complete checkpoint (MAX_RESTARTS does so by itself)"

    def _run(self) -> None:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            client = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=20))
        except (DistError, RuntimeError) as problem:
            log.warn(f"nobody watches this process: the store at {address}:{port} does not answer ({str(problem)[:120]})")
            return
        try:
            self._look_on(PrefixStore(f"hone/watch/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", client))
        except (DistError, RuntimeError) as problem:
            if not self._quiet.wait(min(self._seconds, _LOST_SECONDS)):  # else the work has found out, or is over
                said = f"the run cannot go on: rank {self._rank} on {socket.gethostname()} can no longer reach {address}:{port}"
                print(
                    f"{said}, so rank 0 has gone or is cut off ({str(problem)[:120]}). {self._saved()}",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(TrainingError.exit_code)

    def _look_on(self, store: Any) -> None:
        with self._stacks.open("w") as stacks:
            while not self._quiet.wait(self._tick_seconds):
                # Where Python's lock is held for good this thread stands still too; faulthandler's does not.
                faulthandler.dump_traceback_later(self._seconds + 2 * self._tick_seconds, file=stacks)
                self._tick(store)
            faulthandler.cancel_dump_traceback_later()
            self._show(store, ended=True)
        self._stacks.unlink(missing_ok=True)

    def _show(self, store: Any, *, ended: bool = False) -> None:
        self._ticks += 1
        sign = Sign(
            self._rank, socket.gethostname(), os.getpid(), self._ticks, PULSE.step, PULSE.place, PULSE.doing, PULSE.limited, ended
        )
        store.set(f"sign/{self._rank}", json.dumps(vars(sign)))

    def _tick(self, store: Any) -> None:
        self._show(store)
        if store.check(["verdict"]):
            self._end(store, store.get("verdict").decode())
        watched = [f"sign/{rank}" for rank in (range(self._world) if self._rank == 0 else (0, self._rank))]
        here = watched if store.check(watched) else [key for key in watched if store.check([key])]
        self._seen |= {sign.rank: sign for sign in (Sign(**json.loads(text)) for text in store.multi_get(here))}
        if verdict := self._judge():
            store.compare_set("verdict", "", verdict)
            self._end(store, store.get("verdict").decode())

    def _judge(self) -> str:
        """Who is dead or stuck, in words; "" where nobody is, as far as this process sees."""
        signs = [(sign, self._silent(sign), self._still.of(sign.rank, (sign.step, sign.place))) for sign in self._seen.values()]
        running = [one for one in signs if not one[0].ended]
        dead = [str(sign) for sign, _, _ in running if sign.host == socket.gethostname() and not lives(sign.process)]
        if dead:
            return f"{', '.join(dead)} has died"
        if not running or min(still for _, _, still in running) < self._seconds:
            return ""
        silent = [f"{sign} gives no sign of life" for sign, seconds, _ in running if seconds > self._seconds]
        first = min((sign.step, sign.place) for sign, _, _ in running)
        stuck = [sign for sign, _, _ in running if (sign.step, sign.place) == first]
        if silent:
            return "; ".join(silent) + f", since {self._seconds:g} s or more"
        if not all(sign.limited for sign in stuck):
            return ""
        every = "no process goes on: " if len(stuck) == len(running) > 1 else ""
        said = ", ".join(f"{sign} is at step {sign.step}, {sign.doing}" for sign in stuck)
        return f"{every}{said}, since {self._seconds:g} s or more"

    def _end(self, store: Any, verdict: str) -> None:
        """Tell what was judged, save what can be, and end this process, whatever becomes of the others meanwhile."""
        try:
            self._tell(store, verdict)
        finally:
            sys.stderr.flush()
            os._exit(TrainingError.exit_code)

    def _tell(self, store: Any, verdict: str) -> None:
        """This process's part of it; whoever is first tells all."""
        rows = self._name_rows(list(PULSE.rows)) if PULSE.rows else "none"
        stack = _stack_of_main()
        (self._folder / f"stacks-rank-{self._rank}.txt").write_text(_all_stacks(), encoding="utf-8")
        about = f"rank {self._rank} on {socket.gethostname()}: step {PULSE.step}, {PULSE.doing}; its rows: {rows}"
        store.set(f"detail/{self._rank}", f"{about}\n{stack}")
        told_by_me = self._rank == 0 or not self._lives_still(0)  # the store may go with rank 0
        if told_by_me and store.add("judge", 1) == 1:
            print(self._report(store, verdict), file=sys.stderr, flush=True)
        if self._rank == 0:
            print(self._saved(), file=sys.stderr, flush=True)
            store.set("rescued", "1")
        else:
            self._wait(store, ["rescued"], _RESCUE_SECONDS if self._lives_still(0) else 0)

    def _lives_still(self, rank: int) -> bool:
        return rank in self._seen and self._silent(self._seen[rank]) < self._seconds

    def _silent(self, sign: Sign) -> float:
        return self._ages.of(sign.rank, sign.ticks)

    def _report(self, store: Any, verdict: str) -> str:
        self._wait(store, [f"detail/{rank}" for rank in range(self._world)], _DETAILS_SECONDS)
        lines = [f"the run cannot go on: {verdict}"]
        for rank in range(self._world):
            key = f"detail/{rank}"
            lines.append(store.get(key).decode() if store.check([key]) else f"rank {rank}: no answer, so no stack")
        lines.append(f"stacks of all threads: {self._folder}/stacks-rank-*.txt")
        return "\n".join(lines)

    def _wait(self, store: Any, keys: list[str], seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not all(store.check([key]) for key in keys):
            time.sleep(0.05)


def _stack_of_main() -> str:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return "".join(traceback.format_stack(frame)[-12:]).rstrip() if frame else "no Python stack"


def _all_stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f"thread {names.get(number, number)}\n{''.join(traceback.format_stack(frame))}"
        for number, frame in sys._current_frames().items()
    ]
    return "\n".join(parts)
