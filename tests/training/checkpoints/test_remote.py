"""An output_dir that is a URL: what is complete is carried there, is continued from there, and nothing half is ever seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from hone.commands import train
from hone.errors import CheckpointError, MissingExtra
from hone.inference.servers.started import free_port
from hone.training.checkpoints import checkpoint, remote
from hone.training.checkpoints.remote import Carrier, Remote, staging_of
from tests.runs import losses_of, write_run


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote, "_PAUSES", (0.0, 0.0))


@pytest.fixture
def memory():
    """The URL of an empty place in fsspec's store in memory."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    return "memory://bucket/run"


def saved(folder: Path, step: int, size: int = 100) -> Path:
    def write(aside: Path) -> None:
        (aside / "weights.bin").write_bytes(bytes(size))
        (aside / "deeper").mkdir()
        (aside / "deeper" / "state.json").write_text("{}")

    checkpoint.write_complete(folder / f"checkpoint-{step}", write, about={"step": step})
    return folder / f"checkpoint-{step}"


def there(url: str, folder: Path) -> dict[int, bool]:
    return Remote(url, folder).steps()


def run_there(url: str, settings: dict, tmp_path: Path, staging: str, **changes: object) -> Path:
    """Train with output_dir at `url`; the folder of this machine."""
    whole = {**settings, "output_dir": url, "staging_dir": str(tmp_path / staging), "save_strategy": "steps", "save_steps": 2}
    assert train.main([str(write_run({**whole, "save_total_limit": 2, **changes}, tmp_path / "run.yaml"))]) == 0
    return staging_of(url, str(tmp_path / staging))


def goes_on_elsewhere(url: str, settings: dict, tmp_path: Path, capsys) -> None:
    here = run_there(url, settings, tmp_path, "one", max_steps=6)
    assert there(url, here) == {4: True, 6: True}, "as save_total_limit says"
    assert f"the model is in {url}\n" in capsys.readouterr().err, "not in the folder of this machine"
    other = run_there(url, settings, tmp_path, "two", max_steps=8)
    said = capsys.readouterr().err
    assert f"fetching {url}/checkpoint-6" in said and "continuing" in said and "at step 6 of 8" in said
    assert there(url, other) == {6: True, 8: True}
    straight = {**settings, "max_steps": 8, "output_dir": str(tmp_path / "straight")}
    assert train.main([str(write_run(straight, tmp_path / "straight.yaml"))]) == 0
    assert losses_of(other)[6:] == losses_of(tmp_path / "straight")[6:]
    store, root = fsspec.core.url_to_fs(url)
    for name in ("adapter_model.safetensors", "train_results.json", "trainer_log.jsonl", "run.yaml"):
        assert store.cat_file(f"{root}/{name}") == (other / name).read_bytes()


def test_a_run_goes_on_on_another_machine(tiny_run, tmp_path, memory, capsys):
    goes_on_elsewhere(memory, {**tiny_run, "lr_scheduler_type": "constant", "warmup_steps": 0}, tmp_path, capsys)


def test_a_manifest_goes_last_and_what_has_none_is_not_seen_and_is_cleared_away(tmp_path, memory, monkeypatch):
    place = Remote(memory, tmp_path)
    put, carried = Remote._put, []
    monkeypatch.setattr(Remote, "_put", lambda self, path, target: (carried.append(path.name), put(self, path, target)))
    place.bring(saved(tmp_path, 5))
    assert carried[-1] == checkpoint.MANIFEST and len(carried) == 3

    def die(self: Remote, path: Path, target: str) -> None:
        if path.name == checkpoint.MANIFEST:
            raise KeyboardInterrupt
        put(self, path, target)

    monkeypatch.setattr(Remote, "_put", die)
    with pytest.raises(KeyboardInterrupt):
        place.bring(saved(tmp_path, 10))
    assert place.steps() == {5: True, 10: False}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Remote(memory, elsewhere).begin(anew=False, named="")
    assert checkpoint.newest_complete(elsewhere) == (elsewhere / "checkpoint-5", [])
    assert place.steps() == {5: True}


def test_one_that_was_harmed_there_is_passed_over(tmp_path, memory):
    place, elsewhere = Remote(memory, tmp_path), tmp_path / "elsewhere"
    for step in (5, 10):
        place.bring(saved(tmp_path, step))
    fsspec.filesystem("memory").pipe_file("/bucket/run/checkpoint-10/weights.bin", b"short")
    elsewhere.mkdir()
    Remote(memory, elsewhere).begin(anew=False, named="")
    assert [path.name for path in checkpoint.checkpoints(elsewhere)] == ["checkpoint-5"]


def test_the_last_and_the_best_are_kept_and_those_of_a_run_that_was_replaced_go(tmp_path, memory):
    place = Remote(memory, tmp_path)
    for step in (5, 10, 15, 20):
        place.bring(saved(tmp_path, step))
    place.keep(2, newest=20, best=5, stale=set())
    assert place.steps() == {5: True, 20: True}
    carrier = Carrier(place, limit=3, anew=True)
    carrier.carry(saved(tmp_path, 2), None)
    carrier.settle()
    assert place.steps() == {2: True}


def test_a_store_that_refuses_is_asked_again_and_nothing_here_is_lost(tmp_path, memory, monkeypatch, capsys):
    place, put, refused = Remote(memory, tmp_path), Remote._put, [2]

    def refuse(self: Remote, path: Path, target: str) -> None:
        if refused[0]:
            refused[0] -= 1
            raise OSError("503 Slow Down")
        put(self, path, target)

    monkeypatch.setattr(Remote, "_put", refuse)
    carrier = Carrier(place)
    carrier.carry(saved(tmp_path, 5), None)
    carrier.settle()
    assert place.steps() == {5: True} and capsys.readouterr().err.count("503 Slow Down; tried again in 0 s") == 2
    refused[0] = 3
    carrier.carry(saved(tmp_path, 10), None)
    carrier.settle()
    assert "checkpoint-10 could not be carried" in capsys.readouterr().err
    assert checkpoint.newest_complete(tmp_path) == (tmp_path / "checkpoint-10", [])
    carrier.finish()
    assert place.steps()[10], "the end brings what is missing"
    (tmp_path / "results.json").write_text("{}")
    refused[0] = 99
    with pytest.raises(CheckpointError, match=r"could not be carried to memory://bucket/run: 503"):
        carrier.finish()


def test_kill_9_while_a_checkpoint_is_carried(tmp_path):
    """Twelve kills at moments spread over the copying: there is always a complete checkpoint, and never a half one is taken."""
    url, here = f"file://{tmp_path}/there", tmp_path / "here"
    here.mkdir()
    Remote(url, here).bring(saved(here, 1))
    for number in range(12):
        step = 2 + number
        folder = saved(here, step, size=400_000)
        child = os.fork()
        if not child:
            try:
                Remote(url, here).bring(folder)
            finally:
                os._exit(0)
        time.sleep(0.0015 * number)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        fetched = tmp_path / f"fetched-{number}"
        fetched.mkdir()
        whole = max(step for step, complete in there(url, here).items() if complete)
        Remote(url, fetched).begin(anew=False, named="")
        assert checkpoint.newest_complete(fetched) == (fetched / f"checkpoint-{whole}", [])


def test_the_package_that_a_store_needs_is_named(tmp_path, monkeypatch):
    def missing(url: str) -> None:
        raise ImportError("Install gcsfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingExtra, match="gcsfs"):
        Remote("gs://bucket/run", tmp_path)
    with pytest.raises(MissingExtra, match=r"hone-llm\[remote\]"):
        Remote("s3://bucket/run", tmp_path)


@pytest.mark.slow
def test_a_run_goes_on_from_an_s3_server(tiny_run, tmp_path, capsys, monkeypatch):
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        variables = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in {**variables, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        end = time.monotonic() + 100
        while time.monotonic() < end:
            try:
                fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")
                break
            except Exception:
                time.sleep(0.3)
        settings = {**tiny_run, "lr_scheduler_type": "constant", "warmup_steps": 0}
        goes_on_elsewhere("s3://bucket/runs/one", settings, tmp_path, capsys)
    finally:
        server.kill()
        server.wait()
