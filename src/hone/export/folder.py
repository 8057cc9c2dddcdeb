"""The folder of an export: written beside its place under a hidden name, and renamed when it is complete.

Does not know what is written into it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hone import log
from hone.errors import ExportError

REPORT = "export_report.json"
"""The file that marks a folder as an export of ours, which the next export may replace."""


def check_place(place: Path, sources: list[Path]) -> None:
    """Refuse an export_dir that holds something else, or from which the export reads. Raises: ExportError."""
    target = place.resolve()
    for source in (path.resolve() for path in sources):
        if target == source or target in source.parents:
            raise ExportError(f"export_dir {place} is, or holds, {source}, which is read while exporting; write another folder.")
    if place.exists() and not place.is_dir():
        raise ExportError(f"export_dir {place} is a file; write a folder.")
    if place.is_dir() and any(place.iterdir()) and not (place / REPORT).is_file():
        raise ExportError(
            f"export_dir {place} holds files that are not an export (no {REPORT}): {_some(place)}. "
            "Write another folder, or empty this one."
        )


def _some(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


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

    The block ends with `publish`, or leaves nothing. A full disk is an ExportError.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        for stale in place.parent.glob(f".{place.name}.partial-*"):
            log.info(f"note: {stale} is left of an interrupted export and can be removed")
        draft = place.parent / f".{place.name}.partial-{os.getpid()}"
        draft.mkdir()
    except OSError as fault:
        raise ExportError(f"export_dir {place} cannot be made: {fault.strerror}") from None
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


def publish(draft: Path, place: Path) -> None:
    """Rename `draft` to `place`; an older export there is removed once the new one stands."""
    _give_modes(draft)
    if not place.exists():
        draft.rename(place)
        return
    old = place.parent / f".{place.name}.old-{os.getpid()}"
    place.rename(old)
    draft.rename(place)
    shutil.rmtree(old)


def _give_modes(folder: Path) -> None:
    # safetensors 0.8 makes files that only their owner can read, whatever the umask: a served model must be readable.
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
