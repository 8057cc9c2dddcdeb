"""Signals that come before the first step end the run with the code it was asked for, and nothing starts it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hone.training.processes import launch
from tests import worlds
from tests.runs import write_run

WAITS = """
import signal, sys, time
from hone.training.processes.signals import StopRequest, ending_early
with ending_early(lambda number: 85):
    if sys.argv[1] == "stepping":
        with StopRequest(lambda number: print("heard", flush=True)) as request:
            print("ready", flush=True)
            while not request.signal:
                time.sleep(0.01)
        print("saved", flush=True)
        signal.raise_signal(signal.SIGTERM)
    try:
        print("ready", flush=True)
        time.sleep(60)
    except Exception:
        print("taken for an error", flush=True)
    finally:
        print("put away", flush=True)
"""

FORKS = """
import os, signal, time
from hone.training.processes.signals import ending_early
with ending_early(lambda number: 85):
    child = os.fork()
    if not child:
        time.sleep(60)
    time.sleep(0.1)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

ORPHAN = """
import os, subprocess, sys, time
from hone.training.processes.signals import end_with_parent
if len(sys.argv) > 1:
    end_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(60)
subprocess.run([sys.executable, __file__, "child"])
"""


def script(text: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    file = folder / "script.py"
    file.write_text(text)
    return subprocess.Popen([sys.executable, str(file), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_before_the_first_step_a_signal_ends_the_process_with_the_users_code(number, tmp_path):
    process = script(WAITS, tmp_path, "early")
    assert first_line(process) == "ready"
    process.send_signal(number)
    said, told = process.communicate(timeout=30)
    assert process.returncode == 85
    assert said == "put away\n" and f"{number.name} received: nothing is to be saved yet" in told


def test_a_forked_workers_signals_are_its_own(tmp_path):
    process = script(FORKS, tmp_path)
    said, told = process.communicate(timeout=30)
    assert (said, told, process.returncode) == (f"{-signal.SIGTERM}\n", "", 0)


def test_from_the_first_step_on_a_signal_is_a_wish_and_later_ones_act_as_ever(tmp_path):
    process = script(WAITS, tmp_path, "stepping")
    assert first_line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert said == "heard\nsaved\n" and process.returncode == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells a process of its parent's death on Linux alone")
def test_a_process_of_a_run_ends_when_its_launcher_is_killed(tmp_path):
    process = script(ORPHAN, tmp_path)
    child = int(first_line(process))
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.slow
def test_a_signal_while_the_processes_start_is_not_lost_to_max_restarts(tiny_run, tmp_path):
    """The process ends by the signal, as Python has not come to hone yet; torchrun starts it again, and that one is ended."""
    variables = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "1", "MASTER_PORT": str(worlds.free_port()), "MAX_RESTARTS": "3"}
    file = write_run({**tiny_run, "stopped_exit_code": 85}, tmp_path / "run.yaml")
    process = worlds.start_training([str(file)], variables=variables, log_file=tmp_path / "log")
    end = time.monotonic() + 60
    while not launch._children(process.running.pid) and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(process.running.pid, signal.SIGTERM)
    assert process.end(60) == 85, process.said
    assert not Path(tiny_run["output_dir"]).exists(), "nothing was begun"
