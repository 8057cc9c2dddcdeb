"""The folder of an export: complete or as it was, whatever kills the writer; what is replaced, and what is never touched."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from hone.errors import ExportError, PlaceError
from hone.export import folder, job
from hone.export.folder import REPORT, sizes_of
from tests.export.whole import leftovers, run_export
from tests.runs import largest_difference, weights_of


def complete(place: Path) -> bool:
    """Every file that the report lists, at its size, and none besides."""
    sizes = sizes_of(place)
    sizes.pop(REPORT)
    return sizes == json.loads((place / REPORT).read_text())["contents"]


def in_a_child(work: Callable[[], object], *, kill_after: float | None = None) -> int:
    """Do `work` in a forked process, which is killed after so many seconds; its wait status."""
    child = os.fork()
    if not child:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not live through a fork
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def test_kills_at_random_moments(tiny_model_dir, make_adapter, tmp_path, kills=12) -> None:
    """The first half finds no export, the second half an older one, which is the other of two adapters' each time."""
    adapters = [make_adapter(tiny_model_dir, name, seed=seed) for seed, name in enumerate(("one", "two"))]
    wanted = []
    for number, adapter in enumerate(adapters):
        began = time.monotonic()
        assert (
            in_a_child(lambda adapter=adapter, number=number: run_export(tiny_model_dir, [adapter], tmp_path / f"{number}")) == 0
        )
        seconds = time.monotonic() - began
        wanted.append(weights_of(tmp_path / f"{number}"))
    place, draw, killed, there = tmp_path / "out", random.Random(0), 0, None
    for trial in range(kills):
        if trial == kills // 2 and there is None:
            run_export(tiny_model_dir, adapters[:1], place)
            there = 0
        which = trial % 2
        status = in_a_child(
            lambda which=which: run_export(tiny_model_dir, [adapters[which]], place), kill_after=draw.uniform(0, 1.2 * seconds)
        )
        killed += os.WIFSIGNALED(status)
        folder._sweep(place)
        if not place.exists():
            assert there is None
            continue
        assert complete(place)
        which = [largest_difference(weights_of(place), one) for one in wanted].index(0.0)
        assert which in (there, trial % 2)
        there = which
        if trial < kills // 2:
            subprocess.run(["rm", "-r", str(place)], check=True)
            there = None
    assert killed >= kills // 3, "too few were alive to be killed"
    run_export(tiny_model_dir, adapters[:1], place)
    assert complete(place) and leftovers(tmp_path) == ["out"]


@pytest.mark.parametrize("moment", [1, 2, 3], ids=["before the old one moves", "between the renames", "before the old one goes"])
def test_a_kill_while_an_older_export_is_replaced(tiny_model_dir, make_adapter, tmp_path, monkeypatch, moment, capsys) -> None:
    place = tmp_path / "out"
    run_export(tiny_model_dir, [], place)
    before, steps = weights_of(place), []

    def deadly(original):
        def step(*arguments):
            steps.append(1)
            if len(steps) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        return step

    def killed() -> None:
        monkeypatch.setattr(Path, "rename", deadly(Path.rename))
        monkeypatch.setattr(folder.shutil, "rmtree", deadly(folder.shutil.rmtree))
        run_export(tiny_model_dir, [make_adapter(tiny_model_dir, "one")], place)

    assert os.WIFSIGNALED(in_a_child(killed))
    assert place.exists() is (moment != 2)
    with pytest.raises(RuntimeError, match="after the sweep"), monkeypatch.context() as patch:
        patch.setattr(job, "merge", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("after the sweep")))
        run_export(tiny_model_dir, [], place)
    assert complete(place) and leftovers(tmp_path) == ["out"]
    assert (largest_difference(weights_of(place), before) == 0.0) is (moment < 3)
    said = capsys.readouterr().err
    assert ("the older one is there again" in said) is (moment == 2)


def test_an_older_export_is_replaced_whole(tiny_model_dir, tmp_path, monkeypatch, capsys) -> None:
    """No file of the first, in three shards, stays beside the second's one."""
    merge = job.merge
    with monkeypatch.context() as patch:
        patch.setattr(job, "merge", lambda recipe, draft, **named: merge(recipe, draft, **named | {"shard_bytes": 60_000}))
        run_export(tiny_model_dir, [], tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    assert "earlier export" not in capsys.readouterr().err
    run_export(tiny_model_dir, [], tmp_path / "out")
    assert "held an earlier export, which this one replaces" in capsys.readouterr().err
    assert complete(tmp_path / "out") and [path.name for path in (tmp_path / "out").glob("model*")] == ["model.safetensors"]


def test_files_put_beside_an_export_are_never_removed(tiny_model_dir, tmp_path) -> None:
    run_export(tiny_model_dir, [], tmp_path / "out")
    (tmp_path / "out" / "model-q4.gguf").write_text("made of it afterwards")
    with pytest.raises(ExportError, match=r"earlier export and files that were not written by it: model-q4\.gguf\. Write"):
        run_export(tiny_model_dir, [], tmp_path / "out")
    assert (tmp_path / "out" / "model-q4.gguf").is_file()
    (tmp_path / "out.failed").mkdir()
    (tmp_path / "out.failed" / "notes").mkdir()
    (tmp_path / "out.failed" / "notes" / "a.txt").write_text("mine")
    (tmp_path / "out" / "model-q4.gguf").unlink()
    with pytest.raises(ExportError, match=r"out\.failed holds files that are not an export .*: notes/a\.txt"):
        run_export(tiny_model_dir, [], tmp_path / "out")


def test_a_link_is_refused_with_what_to_write(tiny_model_dir, tmp_path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with pytest.raises(ExportError, match=r"is a link, which a rename cannot replace; write a folder inside it: .*out/model"):
        run_export(tiny_model_dir, [], tmp_path / "out")
    run_export(tiny_model_dir, [], tmp_path / "out" / "model")
    assert complete(tmp_path / "disk" / "model")


@pytest.mark.parametrize("place", [".", "..", "/"])
def test_the_folder_one_is_in_is_refused_as_a_mistake_of_the_user(tiny_model_dir, tmp_path, monkeypatch, place) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlaceError, match=f"export_dir {place} is, or holds, ") as caught:
        run_export(tiny_model_dir, [], Path(place))
    assert caught.value.exit_code == 2


def test_an_empty_folder_is_taken(tiny_model_dir, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    run_export(tiny_model_dir, [], tmp_path / "out")
    assert complete(tmp_path / "out")


def test_two_exports_into_one_place_do_not_meet(tiny_model_dir, tmp_path) -> None:
    with FileLock(tmp_path / ".out.lock"), pytest.raises(ExportError, match=r"another export into .* is running"):
        run_export(tiny_model_dir, [], tmp_path / "out")


def test_too_little_space_is_seen_before_anything_is_written(tiny_model_dir, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("hone.export.folder.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(ExportError, match=r"disk full: the export needs 0\.000 GB"):
        run_export(tiny_model_dir, [], tmp_path / "out")
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("settings", [{}, {"use_dora": True}], ids=["rows", "whole"])
def test_a_disk_that_fills_up_is_told_and_left_clean(tiny_model_dir, make_adapter, tmp_path, monkeypatch, settings) -> None:
    """Full in the weights, in the config, in the tokenizer (which raises a bare Exception), in the report: page by page."""
    adapter = make_adapter(tiny_model_dir, "one", **settings)
    run_export(tiny_model_dir, [adapter], tmp_path / "whole")
    pages = [-(-size // 4096) for size in sizes_of(tmp_path / "whole").values()]
    monkeypatch.setattr(job, "check_space", lambda *_: None)
    monkeypatch.setattr(job, "measure_parity", lambda *_, **__: (None, "not of interest here"))
    disk = tmp_path / "disk"
    disk.mkdir()
    for size in sorted({sum(pages) - back for back in range(1, sum(pages) - max(pages) + 1)} | {10}):
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size * 4}k", "tmpfs", str(disk)], capture_output=True)
        if mounted.returncode:
            pytest.skip("this machine does not allow mounting")
        try:
            with pytest.raises(ExportError, match=r"No space left|cannot be written"):
                run_export(tiny_model_dir, [adapter], disk / "out")
            assert list(disk.iterdir()) == [], size
        finally:
            subprocess.run(["umount", str(disk)], check=True)
