"""An error of all processes is told once, one of a single process is told by it."""

from __future__ import annotations

import pytest
from torch.distributed import TCPStore

from hone import cli
from hone.commands import train
from hone.errors import TrainingError
from hone.training.processes import voice
from tests import worlds
from tests.runs import write_run


@pytest.fixture
def torchruns_store(monkeypatch):
    """A store as torchrun holds it for its processes."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"ADDR": "127.0.0.1", "PORT": str(store.port)}.items():
        monkeypatch.setenv(f"MASTER_{name}", value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(voice, "_torchruns", [])
    monkeypatch.setattr(voice, "_PATIENCE_SECONDS", 0.2)
    return store


def test_one_process_has_the_word(torchruns_store, monkeypatch):
    order = [("0", "a"), ("1", "a"), ("1", "b"), ("0", "b"), ("0", "c"), ("1", "d")]
    told = []
    for rank, message in order:
        monkeypatch.setenv("RANK", rank)
        told.append(voice.has_the_word(TrainingError(message)))
    assert told == [True, False, True, False, True, True]


def test_a_process_alone_tells_its_error_and_who_it_is(torchruns_store, monkeypatch, capsys):
    def fail(arguments: list[str], verb: str) -> None:
        raise TrainingError("no memory here")

    monkeypatch.setattr(train, "load", fail)
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["train"]) == 1
    assert capsys.readouterr().err == "[rank 1] hone train: no memory here\n"
    monkeypatch.setenv("RANK", "0")
    assert cli.main(["train"]) == 1
    assert capsys.readouterr().err == ""


def test_outside_torchrun_every_error_is_told():
    assert all(voice.has_the_word(TrainingError("a")) for _ in range(2))


@pytest.mark.slow
def test_two_processes_refuse_in_one_line_with_their_own_exit_code(tiny_run, tmp_path):
    path = write_run({**tiny_run, "lora_target": "nowhere"}, tmp_path / "run.yaml")
    done = worlds.command(path, 2)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("hone train: ") == 1 and "Traceback" not in done.stderr
