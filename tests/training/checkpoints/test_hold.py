"""One run at a time in an output folder: another process is refused by name, and a killed one lets go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from hone.errors import CheckpointError
from hone.training.checkpoints import hold as holding
from hone.training.checkpoints.hold import LOCK, hold, let_go

HOLDER = """
import sys, time
from pathlib import Path
from hone.training.checkpoints.hold import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_folder_that_another_process_holds_is_refused_until_that_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(holding, "_ENDING_SECONDS", 0.3)
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(CheckpointError, match=rf"another run writes into .* \(process {process.pid} on "):
        hold(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    hold(tmp_path)


def test_a_process_holds_a_folder_again_and_one_that_was_made_anew(tmp_path):
    folder = tmp_path / "out"
    for _ in range(2):
        folder.mkdir()
        hold(folder)
        hold(folder)
        assert (folder / LOCK).is_file()
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def test_what_is_let_go_another_process_may_hold(tmp_path):
    hold(tmp_path)
    let_go()
    script = HOLDER.replace("time.sleep(60)", "")
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True).stdout == "held\n"


def test_an_earlier_start_that_is_about_to_end_is_waited_for(tmp_path, capsys):
    script = HOLDER.replace("time.sleep(60)", "time.sleep(0.5)")
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    hold(tmp_path)
    assert process.wait() == 0 and f"(process {process.pid} on " in capsys.readouterr().err
