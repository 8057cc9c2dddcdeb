"""Remote: an output_dir that is a URL. The run works in a folder of this machine; what is complete there is carried to the URL.

Does not know what a checkpoint holds. Files go first and the manifest last: there, too, a checkpoint is complete or invisible.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from hone import log
from hone.config.run import Run
from hone.data.files import store_of
from hone.errors import CheckpointError
from hone.training.checkpoints import checkpoint
from hone.training.checkpoints.checkpoint import MANIFEST

_PAUSES = (1.0, 4.0, 16.0)
"""Seconds before each further try of what a store refused."""


def is_url(place: str | bool | None) -> bool:
    """Whether a folder is one of a store and not of this machine."""
    return isinstance(place, str) and "://" in place


def staging_of(url: str, asked: str) -> Path:
    """The folder of this machine in which a run of `url` works: below `asked`, or below the user's own cache."""
    root = Path(asked).expanduser() if asked else Path.home() / ".cache" / "hone" / "runs"
    return root / f"{url.rstrip('/').rpartition('/')[2]}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def brought_here(run: Run) -> tuple[Run, Remote | None]:
    """The run with a folder of this machine for an output_dir that is a URL, and that URL; the run itself where it is none."""
    train = run.train
    if not is_url(train.output_dir):
        return run, None
    folder = staging_of(train.output_dir, train.staging_dir)
    remote, changes = Remote(train.output_dir, folder), {"output_dir": str(folder)}
    if is_url(train.resume_from_checkpoint):
        changes["resume_from_checkpoint"] = str(folder / str(train.resume_from_checkpoint).rstrip("/").rpartition("/")[2])
    log.info(f"output_dir is {train.output_dir}: the run works in {folder}, and what is complete is carried there")
    return run.model_copy(update={"train": train.model_copy(update=changes)}), remote


class Remote:
    """The URL of a run and the folder of this machine, whose files have the same names."""

    def __init__(self, url: str, folder: Path):
        self.url, self.folder = url.rstrip("/"), folder
        self._store, root = store_of(url, "output_dir")
        self._root = root.rstrip("/")

    def steps(self) -> dict[int, bool]:
        """The checkpoints there, by step, and whether each is complete."""
        found = {}
        for path in self._names(self._root):
            name = path.rstrip("/").rpartition("/")[2]
            if checkpoint.is_named_so(Path(name)):
                found[checkpoint.step_of(Path(name))] = self._store.exists(f"{self._root}/{name}/{MANIFEST}")
        return found

    def _names(self, place: str) -> list[str]:
        self._store.invalidate_cache()
        return self._store.ls(place, detail=False) if self._store.exists(place) else []

    def begin(self, *, anew: bool, named: str) -> None:
        """Fetch what a run goes on from, where this machine has not as much: small files, and the newest complete checkpoint.

        anew: the run starts over, and fetches nothing; named: the one checkpoint that it goes on from, "" for the newest.
        Raises CheckpointError where the store does not answer.
        """
        with self._answering("used"):
            probe = f"{self._root}/.probe"
            self._store.makedirs(self._root, exist_ok=True)
            self._store.pipe_file(probe, b"")
            self._store.rm_file(probe)
            if anew:
                return
            there = self.steps()
            for step in (step for step, whole in there.items() if not whole):
                self.discard(step)  # left by a run that was ended in carrying it
            for path in self._names(self._root):
                target = self.folder / path.rpartition("/")[2]
                if not target.exists() and self._store.isfile(path):
                    self._store.get_file(path, str(target))
            wanted = [checkpoint.step_of(Path(named))] if named else sorted((step for step in there if there[step]), reverse=True)
            newest, _ = checkpoint.newest_complete(self.folder)
            least = -1 if newest is None or named else checkpoint.step_of(newest)
            next((step for step in wanted if step <= least or self.fetch(step)), None)

    def fetch(self, step: int) -> bool:
        """Bring a checkpoint here, to where it was saved on the machine that did; False, told, where it is not whole."""
        name = f"checkpoint-{step}"
        final, aside = self.folder / name, self.folder / f".{name}.writing"
        if final.exists() and not checkpoint.problem_of(final):
            return True
        log.info(f"fetching {self.url}/{name}")
        source = f"{self._root}/{name}"
        for path in self._store.find(source):
            target = aside / path[len(source) :].lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            self._store.get_file(path, str(target))
        if problem := checkpoint.problem_of(aside):
            log.warn(f"passed over, not complete: {self.url}/{name}: {problem}")
            return False
        if final.exists():
            checkpoint.discard(final)
        aside.rename(final)
        return True

    def bring(self, folder: Path) -> None:
        """Carry a complete checkpoint there: its files, then its manifest."""
        target = f"{self._root}/{folder.name}"
        if self._store.exists(target):
            self.discard(checkpoint.step_of(folder))
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST):
            self._put(path, f"{target}/{path.relative_to(folder).as_posix()}")
        self._put(folder / MANIFEST, f"{target}/{MANIFEST}")

    def bring_files(self) -> None:
        """Carry there what stands beside the checkpoints: records, settings, results, and the model in the end."""
        for path in sorted(self.folder.rglob("*")):
            place = path.relative_to(self.folder)
            if path.is_file() and not place.parts[0].startswith((".", "checkpoint-")):
                self._put(path, f"{self._root}/{place.as_posix()}")

    def _put(self, path: Path, target: str) -> None:
        self._store.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._store.put_file(str(path), target)

    def discard(self, step: int) -> None:
        """Remove a checkpoint there, its manifest first, so that it is never seen half removed."""
        place = f"{self._root}/checkpoint-{step}"
        if self._store.exists(f"{place}/{MANIFEST}"):
            self._store.rm_file(f"{place}/{MANIFEST}")
        self._store.rm(place, recursive=True)

    def keep(self, limit: int | None, newest: int, best: int | None, stale: set[int]) -> None:
        """Remove `stale` ones, and the oldest beyond `limit`, never the newest nor the best."""
        present = sorted(self.steps())
        for step in present:
            if step in stale and step != newest:
                self.discard(step)
        present = [step for step in present if step not in stale or step == newest]
        spare = [step for step in present if step not in (newest, best)]
        for step in spare[: max(0, len(present) - limit)] if limit else []:
            self.discard(step)

    @contextlib.contextmanager
    def _answering(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as problem:
            raise CheckpointError(
                f"output_dir: {self.url} cannot be {what}: {problem}. Look at its name and your rights"
            ) from problem


class Carrier:
    """Carries checkpoints to a remote in a thread, one at a time; without a remote it does nothing. Rank 0 has a real one.

    limit: as of save_total_limit.
    """

    def __init__(self, remote: Remote | None, *, limit: int | None = None, anew: bool = False):
        self._remote, self._limit = remote, limit
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="carrier")
        self._under_way: Future[None] | None = None
        self._stale = set(remote.steps()) if remote and anew else set[int]()
        self._waits = True
        self.url = remote.url if remote else ""

    def carry(self, folder: Path, best: str | None) -> None:
        """Begin to carry a checkpoint, once it is complete; the one before it has arrived or been given up (`settle`)."""
        if self._remote is not None:
            self.settle()
            self._under_way = self._worker.submit(self._carry, folder, best)

    def _carry(self, folder: Path, best: str | None) -> None:
        assert self._remote is not None, "something to carry and nowhere to"
        while self._waits and not (folder / MANIFEST).is_file():  # it is still being written
            time.sleep(0.1)
        if not (folder / MANIFEST).is_file():
            return  # it will not come: the run ends
        step, remote = checkpoint.step_of(folder), self._remote
        best_step = checkpoint.step_of(Path(best)) if best else None

        def whole() -> None:
            remote.bring(folder)
            if best_step is not None and best_step not in remote.steps() and Path(best or "").is_dir():
                remote.bring(Path(best or ""))
            remote.bring_files()
            remote.keep(self._limit, step, best_step, self._stale)

        if problem := self._tried(whole):
            log.warn(
                f"{folder} could not be carried to {remote.url}: {problem}. It stays here; the next one is carried in its turn"
            )
            return
        self._stale = set()

    def _tried(self, do: Callable[[], None]) -> str:
        """Do it, again after a while where the store refuses; why it did in the end, "" where it did not."""
        for pause in (*_PAUSES, None):
            try:
                do()
            except (OSError, ValueError, RuntimeError) as problem:  # stores have errors of all kinds under these
                if pause is None or not self._waits:
                    return str(problem) or type(problem).__name__
                log.warn(f"{self.url}: {problem}; tried again in {pause:g} s")
                time.sleep(pause)
            else:
                return ""
        raise AssertionError("a last try has no pause")

    def settle(self) -> None:
        """Wait for what is under way."""
        if self._under_way is not None:
            self._under_way.result()
            self._under_way = None

    def close(self) -> None:
        """Wait for nothing any more: the run is over, however it ended."""
        self._waits = False
        self._worker.shutdown(wait=False, cancel_futures=True)

    def finish(self) -> None:
        """All that the run leaves has arrived; CheckpointError, which says where it lies, where it has not."""
        if self._remote is None:
            return
        self.settle()
        remote = self._remote
        there = {step for step, whole in remote.steps().items() if whole}
        newest, _ = checkpoint.newest_complete(remote.folder)

        def rest() -> None:
            if newest is not None and checkpoint.step_of(newest) not in there:
                remote.bring(newest)
            remote.bring_files()

        if problem := self._tried(rest):
            raise CheckpointError(f"what the run made is in {remote.folder} and could not be carried to {remote.url}: {problem}")
        log.info(f"carried to {remote.url}")


def everywhere(remote: Remote, source: Path) -> None:
    """Fetch the checkpoint that the run goes on from onto a machine that has it not; one process a machine does."""
    if int(os.environ.get("LOCAL_RANK", "0")) == 0 and not source.is_dir():
        remote.folder.mkdir(parents=True, exist_ok=True)
        if not remote.fetch(checkpoint.step_of(source)):
            raise CheckpointError(f"{remote.url}/{source.name} could not be fetched")
