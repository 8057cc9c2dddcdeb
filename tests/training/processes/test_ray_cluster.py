"""Ray starts the processes: what they say, how they end, and that two of them train what two under torchrun do."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hone.training.processes.ray_cluster import Agent, _has_token, _variables, _watch
from hone.training.processes.signals import StopRequest
from tests import worlds
from tests.runs import largest_difference, losses_of, weights_of, write_run

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


class Deaf:
    """An agent that notes which signals it was to hand on."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.signal = SimpleNamespace(remote=self.told.append)


def watch(streams: list[list[str | int]]) -> tuple[int, list[Deaf]]:
    ray = SimpleNamespace(get=lambda line: line, exceptions=SimpleNamespace(RayError=ConnectionError))
    agents = [Deaf() for _ in streams]
    return _watch(ray, agents, streams, StopRequest(lambda number: None)), agents


def test_an_error_that_all_meet_is_said_once(capfd: pytest.CaptureFixture[str]):
    code, _ = watch([["loss 1\n", "no such model\n", 2], ["[rank 1] no such model\n", "[rank 1] mine alone\n", 2]])
    assert code == 2 and capfd.readouterr().err == "loss 1\nno such model\n[rank 1] mine alone\n"


def test_the_others_are_asked_to_end_when_one_has_failed():
    def waits():
        yield "begun\n"
        while not agents[1].told:
            pass
        yield 143

    agents = [Deaf(), Deaf()]
    ray = SimpleNamespace(get=lambda line: line, exceptions=SimpleNamespace(RayError=ConnectionError))
    assert _watch(ray, agents, [[7], waits()], StopRequest(lambda number: None)) == 7


def test_ranks_of_one_machine_follow_each_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HOME", "/models")
    found = _variables([("b", 1), ("a", 2), ("b", 3)])
    assert [mine["RANK"] for mine in found] == ["0", "2", "1"] and [mine["LOCAL_WORLD_SIZE"] for mine in found] == ["2", "1", "2"]
    assert {(mine["MASTER_ADDR"], mine["MASTER_PORT"], mine["WORLD_SIZE"], mine["HF_HOME"]) for mine in found} == {
        ("b", "1", "3", "/models")
    }


def test_the_token_of_a_cluster_is_looked_for_where_ray_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert not _has_token()
    (tmp_path / "token").write_text("secret")
    assert _has_token()
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not _has_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert _has_token()


def test_an_agent_hands_on_what_its_process_says():
    *lines, code = Agent().run(["version"], {}, os.getcwd())
    assert code == 0 and any("hone" in str(line) for line in lines)
    *lines, code = Agent().run(["version"], {}, "/no/such/folder")
    assert code == 2 and "must see the run's folders" in str(lines[0])


def on_ray(file: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    words, environment = [sys.executable, "-m", "hone", "train", str(file)], {**os.environ, **variables}
    return subprocess.run(words, capture_output=True, text=True, timeout=240, check=False, env=environment)


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """A cluster that stands already, of this machine and with two CPUs; its address."""
    address = f"127.0.0.1:{worlds.free_port()}"
    words = ["start", "--head", "--block", f"--port={address.partition(':')[2]}", "--num-cpus=2", "--include-dashboard=false"]
    words += ["--node-ip-address=127.0.0.1", f"--temp-dir={folder}", "--object-store-memory=100000000", "--disable-usage-stats"]
    with (folder / "said").open("w") as said:
        program = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *words]
        head = subprocess.Popen(program, stdout=said, stderr=said, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while "Ray runtime started" not in (folder / "said").read_text() and time.monotonic() < end:
            time.sleep(0.2)
        yield address
    finally:
        head.terminate()  # it ends what it started
        head.wait(timeout=60)


@needs_ray
@pytest.mark.slow
def test_two_workers_train_what_two_processes_do(tiny_run: dict[str, Any], tmp_path: Path):
    """The same processes, started by another hand: the same numbers to the last digit. An error is told as hone tells it."""
    settings = {**tiny_run, "max_steps": 3}
    ddp = worlds.on_two(settings, tmp_path / "ddp")
    ray = {
        **settings,
        "use_ray": True,
        "ray_num_workers": 2,
        "ray_init_kwargs": {"num_cpus": 2},
        "output_dir": str(tmp_path / "ray"),
    }
    done = on_ray(write_run(ray, tmp_path / "ray.yaml"))
    assert done.returncode == 0, done.stderr
    assert losses_of(tmp_path / "ray") == losses_of(ddp)
    assert largest_difference(weights_of(tmp_path / "ray"), weights_of(ddp)) == 0
    done = on_ray(write_run({**ray, "ray_num_workers": 64}, tmp_path / "many.yaml"))
    assert done.returncode == 1 and "has no room for 64 processes of CPU 1 each" in done.stderr


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_stands_already_is_joined_and_left_standing(tiny_run: dict[str, Any], tmp_path: Path):
    """Named by RAY_ADDRESS and by ray_init_kwargs, one run after the other."""
    settings = {**tiny_run, "max_steps": 2, "use_ray": True, "ray_num_workers": 2}
    with tempfile.TemporaryDirectory(prefix="ray") as folder, cluster(Path(folder)) as address:  # its sockets want a short path
        for name, more, variables in (
            ("variable", {}, {"RAY_ADDRESS": address}),
            ("setting", {"ray_init_kwargs": {"address": address}, "placement_strategy": "STRICT_PACK"}, {}),
        ):
            run = {**settings, **more, "output_dir": str(tmp_path / name)}
            done = on_ray(write_run(run, tmp_path / f"{name}.yaml"), **variables)
            assert done.returncode == 0 and "Ray starts 2 processes" in done.stderr, done.stderr
    assert losses_of(tmp_path / "variable") == losses_of(tmp_path / "setting") and len(losses_of(tmp_path / "setting")) == 2
