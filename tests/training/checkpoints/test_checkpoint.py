"""Checkpoints are complete or invisible, whatever interrupts them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hone.errors import CheckpointError
from hone.training.checkpoints import checkpoint


def write(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"w" * 1000)
    (folder / "deeper").mkdir()
    (folder / "deeper" / "state.json").write_text("{}")


def test_a_written_checkpoint_is_complete_and_readable_by_others(tmp_path):
    folder = tmp_path / "checkpoint-5"
    checkpoint.write_complete(folder, write, about={"step": 5})
    assert checkpoint.problem_of(folder) == ""
    assert checkpoint.read_about(folder)["step"] == 5
    umask = os.umask(0)
    os.umask(umask)
    assert (folder / "weights.bin").stat().st_mode & 0o777 == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "weights.bin").write_bytes(b"w" * 999), "999 bytes, not 1000"),
        (lambda folder: (folder / "weights.bin").write_bytes(b"v" + b"w" * 999), "checksum differs"),
        (lambda folder: (folder / "deeper" / "state.json").unlink(), "state.json is missing"),
        (lambda folder: (folder / checkpoint.MANIFEST).unlink(), "not written to its end"),
        (lambda folder: (folder / checkpoint.MANIFEST).write_text("{"), "cannot be read"),
        (lambda folder: (folder / checkpoint.MANIFEST).write_text("[]"), "cannot be read"),
        (lambda folder: (folder / checkpoint.MANIFEST).write_text('{"files": [1]}'), "cannot be read"),
        (lambda folder: (folder / checkpoint.MANIFEST).write_text('{"files": {"a": 1}}'), "cannot be read"),
    ],
)
def test_harm_is_named_and_the_older_one_is_taken(tmp_path, harm, said):
    for step in (5, 10):
        checkpoint.write_complete(tmp_path / f"checkpoint-{step}", write)
    harm(tmp_path / "checkpoint-10")
    newest, problems = checkpoint.newest_complete(tmp_path)
    assert newest == tmp_path / "checkpoint-5"
    assert len(problems) == 1 and said in problems[0]


def test_a_writer_that_dies_leaves_nothing_to_see_and_the_old_one_whole(tmp_path):
    folder = tmp_path / "checkpoint-5"
    checkpoint.write_complete(folder, write)

    def die(aside: Path) -> None:
        write(aside)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_complete(folder, die)
    assert checkpoint.checkpoints(tmp_path) == [folder]
    assert checkpoint.problem_of(folder) == ""
    checkpoint.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_a_crash_between_two_renames_loses_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint-5"
    checkpoint.write_complete(folder, write)
    renamed, real = [], Path.rename

    def crash_at_the_second(path: Path, target: Path) -> Path:
        renamed.append(path.name)
        if len(renamed) == 2:
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "rename", crash_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_complete(folder, write)
    monkeypatch.undo()
    assert renamed == ["checkpoint-5", ".checkpoint-5.writing"] and not folder.exists()
    checkpoint.sweep(tmp_path)
    assert checkpoint.problem_of(folder) == "" and [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_steps_are_ordered_as_numbers_and_pruned_from_the_oldest(tmp_path):
    for step in (9, 10, 100, 20):
        checkpoint.write_complete(tmp_path / f"checkpoint-{step}", write)
    (tmp_path / "checkpoint-final").mkdir()
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints(tmp_path)] == [9, 10, 20, 100]
    checkpoint.prune(tmp_path, 2, keep=str(tmp_path / "checkpoint-9"))
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints(tmp_path)] == [9, 100]
    checkpoint.prune(tmp_path, 1, keep=str(tmp_path / "checkpoint-100"))
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints(tmp_path)] == [100], "the best is the newest"
    checkpoint.write_complete(tmp_path / "checkpoint-9", write)
    checkpoint.prune(tmp_path, None, keep=None)
    assert len(checkpoint.checkpoints(tmp_path)) == 2


def test_a_full_disk_is_known_by_what_tokenizers_raises_and_our_own_mistakes_stay_what_they_are(tmp_path):
    def fail(problem: Exception) -> None:
        raise problem

    with pytest.raises(CheckpointError, match="No space left on device"):
        checkpoint.write_complete(tmp_path / "checkpoint-1", lambda _: fail(Exception("No space left on device (os error 28)")))
    with pytest.raises(TypeError, match="ours"):
        checkpoint.write_complete(tmp_path / "checkpoint-1", lambda _: fail(TypeError("ours")))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_and_loses_nothing(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)]).returncode:
        pytest.skip("mounting a small tmpfs needs root; runs in CI")
    try:
        checkpoint.write_complete(mount / "checkpoint-1", write)

        def fill(folder: Path) -> None:
            write(folder)
            (folder / "large.bin").write_bytes(b"l" * 200_000)

        with pytest.raises(
            CheckpointError, match=r"checkpoint-2 could not be saved: .*No space left.*0 MiB were free then.*Earlier checkpoints"
        ):
            checkpoint.write_complete(mount / "checkpoint-2", fill)
        assert checkpoint.newest_complete(mount) == (mount / "checkpoint-1", [])
        (mount / "log").write_text("line\n" * 3)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.write_whole(mount / "log", "line\n" * 50_000)
        assert (mount / "log").read_text() == "line\n" * 3
        assert not list(mount.glob(".*"))
    finally:
        subprocess.run(["umount", str(mount)], check=True)
        shutil.rmtree(mount, ignore_errors=True)
