"""Checkpoints: folders that are complete or invisible. Written aside, listed with sizes and checksums, synced, then renamed.

Does not know what is trained: writers put files into the folder it hands them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from hone.errors import CheckpointError

MANIFEST, STATE = "hone_manifest.json", "trainer_state.json"
_OF_THE_DISK = (OSError, RuntimeError, SafetensorError)
"""How a full disk is told: torch.save and safetensors wrap its error, and tokenizers raises a bare Exception."""

_NAME = re.compile(r"checkpoint-(\d+)")


def write_complete(
    folder: Path, write: Callable[[Path], None], *, about: dict[str, object] | None = None, called: str = ""
) -> None:
    """Call `write` on a folder aside, then make all of it appear at `folder` in one rename. An older `folder` is replaced.

    about: noted in the manifest; called: its name in an error, where that is not its path.

    Raises CheckpointError where the disk refuses; what was there before stays as it was.
    """
    with whole_or_not(folder, called):
        write(begin(folder))
        complete(folder, about=about, called=called)


def begin(folder: Path) -> Path:
    """An empty folder aside, into which what will stand at `folder` is written, by one process or several."""
    aside = aside_of(folder)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def complete(folder: Path, *, about: dict[str, object] | None = None, called: str = "") -> None:
    """Let what was written since `begin` appear; see `write_complete`."""
    aside = aside_of(folder)
    with whole_or_not(folder, called):
        files = {str(path.relative_to(aside)): _describe(path) for path in sorted(aside.rglob("*")) if path.is_file()}
        manifest = aside / MANIFEST
        manifest.write_text(json.dumps({"files": files, **(about or {})}, indent=1), encoding="utf-8")
        for path in [*(aside / name for name in files), manifest, aside]:
            _sync(path)
        _replace(aside, folder)
        _sync(folder.parent)


def aside_of(folder: Path) -> Path:
    """Where `begin` makes the folder that `complete` lets appear."""
    return folder.with_name(f".{folder.name}.writing")


@contextmanager
def whole_or_not(folder: Path, called: str = "") -> Iterator[None]:
    """Where something goes wrong nothing is left aside; the disk's refusal is a CheckpointError. See `write_complete`."""
    try:
        yield
    except CheckpointError:
        shutil.rmtree(aside_of(folder), ignore_errors=True)
        raise
    except Exception as problem:
        free = _free_mib(folder.parent)
        shutil.rmtree(aside_of(folder), ignore_errors=True)
        if not isinstance(problem, _OF_THE_DISK) and type(problem) is not Exception:
            raise
        raise CheckpointError(
            f"{called or folder} could not be saved: {problem} ({free} MiB were free then). Earlier checkpoints are untouched; "
            "free space or write elsewhere (output_dir), then run the same command again to continue from the newest one"
        ) from problem


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns the disk's refusal of a small file of the run into a CheckpointError that says what to do."""
    try:
        yield
    except OSError as problem:
        raise CheckpointError(
            f"{place} cannot be written: {problem.strerror or problem}. Earlier checkpoints are untouched; "
            "free space or write elsewhere (output_dir), then run the same command again to continue from the newest one"
        ) from problem


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that a crash or a full disk leaves the old one or the new one, never a part."""
    aside = path.with_name(f".{path.name}.writing")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def make_output(folder: Path) -> None:
    """Make output_dir and see that files can be made in it, before anything costs time; CheckpointError where not."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as problem:
        seen = "it is no folder" if folder.exists() and not folder.is_dir() else problem.strerror or str(problem)
        raise CheckpointError(f"output_dir: {folder} cannot be written to: {seen}. Name another folder") from problem


def problem_of(folder: Path) -> str:
    """What is wrong with a checkpoint, in words; "" where it is complete."""
    manifest = folder / MANIFEST
    if not folder.is_dir():
        return "there is no such folder"
    if not manifest.is_file():
        return f"{MANIFEST} is missing, so it was not written to its end, or not by hone"
    try:
        listed = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        files = {name: (size, digest) for name, (size, digest) in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as problem:  # any JSON may stand there
        return f"{MANIFEST} cannot be read: {problem}"
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
        if _digest(path) != digest:
            return f"{name} is not what was saved (its checksum differs)"
    return ""


def read_about(folder: Path) -> dict[str, object]:
    """What `about` said when a complete checkpoint was written."""
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoint-N folders, oldest step first, complete or not."""
    found = [path for path in output_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name)] if output_dir.is_dir() else []
    return sorted(found, key=step_of)


def is_named_so(folder: Path) -> bool:
    """Whether a folder is called checkpoint-N."""
    return bool(_NAME.fullmatch(folder.name))


def is_ours(folder: Path) -> bool:
    """Whether a checkpoint-N folder holds hone's or Hugging Face's files, or nothing, so that it may be removed."""
    return any((folder / name).is_file() for name in (MANIFEST, STATE)) or (folder.is_dir() and not any(folder.iterdir()))


def step_of(folder: Path) -> int:
    """N of checkpoint-N."""
    match = _NAME.fullmatch(folder.name)
    assert match, f"{folder} is not a checkpoint's name"
    return int(match[1])


def newest_complete(output_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and what was wrong with each newer one."""
    problems = []
    for folder in reversed(checkpoints(output_dir)):
        problem = problem_of(folder)
        if not problem:
            return folder, problems
        problems.append(f"{folder}: {problem}")
    return None, problems


def sweep(output_dir: Path) -> None:
    """Remove what an interrupted save left aside; a whole checkpoint whose successor never came is put back."""
    for path in output_dir.glob(".checkpoint-*.replaced"):
        folder = path.with_name(path.name.removeprefix(".").removesuffix(".replaced"))
        if not folder.exists() and not problem_of(path):
            path.rename(folder)
    for path in [*output_dir.glob(".checkpoint-*.writing"), *output_dir.glob(".checkpoint-*.replaced")]:
        shutil.rmtree(path, ignore_errors=True)


def prune(output_dir: Path, limit: int | None, keep: str | None) -> list[Path]:
    """Remove the oldest checkpoints beyond `limit`, never the newest nor `keep` (the best); returns what was removed."""
    present = checkpoints(output_dir)
    if limit is None or len(present) <= limit:
        return []
    spare = [folder for folder in present[:-1] if keep is None or folder.resolve() != Path(keep).resolve()]
    removed = spare[: len(present) - limit]
    for folder in removed:
        discard(folder)
    return removed


def discard(folder: Path) -> None:
    """Remove a checkpoint so that it is never seen half removed."""
    aside = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _free_mib(folder: Path) -> str:
    """Room on the disk of `folder`, as torch does not tell that it was full; "?" where the disk does not answer."""
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:,.0f}"
    except OSError:
        return "?"


def _replace(aside: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.replaced")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _describe(path: Path) -> tuple[int, str]:
    _widen_mode(path)
    return path.stat().st_size, _digest(path)


def _widen_mode(path: Path) -> None:
    """safetensors 0.8 creates files with mode 0600 whatever the umask says; give every file the umask's mode."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
