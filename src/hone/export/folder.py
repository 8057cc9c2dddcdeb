"""The folder of an export: written beside its place under a hidden name, and renamed when it is complete.

Does not know what is written into it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hone import log
from hone.errors import ExportError, PlaceError
from hone.export.source import read_json

REPORT = "export_report.json"
"""The file that marks a folder as an export of ours, which the next export may replace: it lists all others in it."""


def failed_place(place: Path) -> Path:
    """Where an export that is not the trained model is left to be looked at."""
    return place.with_name(place.name + ".failed")


def check_place(place: Path, sources: list[Path]) -> None:
    """Refuse an export_dir that cannot be replaced, holds something else, or is read while exporting. Raises: PlaceError."""
    target = place.resolve()
    for source in (path.resolve() for path in sources):
        if target == source or target in source.parents:
            raise PlaceError(f"export_dir {place} is, or holds, {source}, which is read while exporting; write another folder.")
    if target in (Path.cwd(), *Path.cwd().parents):
        raise PlaceError(f"export_dir {place} is, or holds, the folder you are in; write another folder.")
    if place.is_symlink() or place.is_mount():
        raise PlaceError(
            f"export_dir {place} is a {'link' if place.is_symlink() else 'mounted disk'}, which a rename cannot replace; "
            f"write a folder inside it: {place / 'model'}"
        )
    if place.exists() and not place.is_dir():
        raise PlaceError(f"export_dir {place} is a file; write a folder.")
    strangers = sorted(sizes_of(place).keys() - _contents_of(place) - {REPORT})
    if not strangers:
        return
    shown = ", ".join(strangers[:5]) + (f" and {len(strangers) - 5} more" if len(strangers) > 5 else "")
    if (place / REPORT).is_file():
        raise PlaceError(
            f"export_dir {place} holds an earlier export and files that were not written by it: {shown}. "
            "Write another folder, or move those files; the export itself would be replaced."
        )
    raise PlaceError(
        f"export_dir {place} holds files that are not an export (no {REPORT}): {shown}. Write another folder, or empty this one."
    )


def sizes_of(folder: Path) -> dict[str, int]:
    """The bytes of every file in a folder, deeper ones too, by name; none where it is not there."""
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.lstat().st_size for path in sorted(files)}


def _contents_of(place: Path) -> set[str]:
    file = place / REPORT
    return set(read_json(file).get("contents", ())) if file.is_file() else set()


def check_space(place: Path, num_bytes: int) -> None:
    """Refuse an export that cannot fit. num_bytes: what will be written. Raises: ExportError."""
    parent = next(path for path in (place, *place.resolve().parents) if path.exists())
    free = shutil.disk_usage(parent).free
    if free < num_bytes:
        raise ExportError(
            f"disk full: the export needs {num_bytes / 1e9:.3f} GB and {parent} has {free / 1e9:.3f} GB free. "
            "Free some space or write an export_dir on another disk."
        )


@contextmanager
def unfinished(place: Path) -> Iterator[Path]:
    """An empty hidden folder beside `place`; removed where anything interrupts the block, Ctrl-C included.

    The block ends with `publish`, or leaves nothing. What an export that was killed has left is removed first. Raises:
    ExportError for a full disk, and where another export writes the same place.
    """
    with _alone(place):
        draft = _hidden(place, "partial")
        try:
            _sweep(place)
            draft.mkdir()
        except OSError as fault:
            raise PlaceError(f"export_dir {place} cannot be made: {fault.strerror}") from None
        try:
            yield draft
        except OSError as fault:
            if fault.errno is None:  # transformers' own, which is not of the disk
                raise
            raise ExportError(
                f"writing {place} failed: {fault.strerror or fault}. Nothing of the export is left; "
                "free some space or write an export_dir on another disk."
            ) from fault
        finally:
            if draft.exists():
                shutil.rmtree(draft)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One export at a time into one place; the system frees the lock of a process that was killed."""
    lock = FileLock(_hidden(place, "lock"))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise PlaceError(f"another export into {place} is running; wait for it, or write another export_dir") from None
    except OSError as fault:
        raise PlaceError(f"export_dir {place} cannot be made: {fault.strerror}") from None
    try:
        yield
    finally:
        _hidden(place, "lock").unlink(missing_ok=True)
        lock.release()


def _hidden(place: Path, kind: str) -> Path:
    return place.with_name(f".{place.name}.{kind}")


def _sweep(place: Path) -> None:
    """Remove what a killed export left; an older export whose successor never came is put back."""
    old, draft = _hidden(place, "old"), _hidden(place, "partial")
    if old.exists() and not place.exists():
        old.rename(place)
        log.info(f"note: an export was interrupted while it replaced {place}; the older one is there again")
    for left in (old, draft):
        if left.exists():
            shutil.rmtree(left)
            log.info(f"note: {left}, left of an interrupted export, was removed")


def publish(draft: Path, place: Path) -> None:
    """Rename `draft` to `place`; an older export there is removed once the new one stands."""
    _settle(draft)
    old = _hidden(place, "old")
    if place.exists() and any(place.iterdir()):
        place.rename(old)
    draft.rename(place)
    if old.exists():
        shutil.rmtree(old)
        log.info(f"{place} held an earlier export, which this one replaces")


def _settle(folder: Path) -> None:
    """Bring every file to the disk, readable for whom the umask allows: safetensors 0.8 makes files only their owner can read."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        path.chmod(0o666 & ~umask)
        with path.open("rb") as file:
            os.fsync(file.fileno())
