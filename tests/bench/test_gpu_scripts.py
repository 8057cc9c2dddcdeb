"""Every script for a GPU begins, and goes to its end on a CPU as a toy, so that a device's minutes are not lost on a slip.

What they print means nothing here; what only a device has (its clock, its memory, Triton's compiler) is not tried. All run in
this process, which has imported what they need.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from hone.config import load
from hone.kernels.passes import has_triton

BENCH = Path(__file__).resolve().parents[2] / "bench"
TOYS = {  # what is printed at the end
    "checks.py --after llama experts four_bits": "checks done",
    "packed_attention.py": "a prompt of 2,048 for 8 answers of 512",
    "fused_ops.py": "a small Llama: losses",
    "lora_layers.py": "down      without",
    "faults.py": "memory did not run out",
    "plan_memory.py 1B lora kept 2K": "1 cases; plan / measured",
}
ASKED = ("serving.py", "run.py", "pack.py")
"""Those that start other processes, for minutes, or fetch: `run.py --toy` goes through all of its cases."""


@pytest.fixture
def called(monkeypatch, capsys, tmp_path):
    """A function that runs a script by its command line and gives what it printed; it ends well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(BENCH / "gpu"), str(BENCH), *sys.path])
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # given back afterwards

    def call(script: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [script, *words])
        try:
            runpy.run_path(str(BENCH / "gpu" / script), run_name="__main__")
        except SystemExit as end:
            assert not end.code
        return capsys.readouterr().out

    return call


def test_every_script_is_known_here():
    scripts = {file.name for file in (BENCH / "gpu").glob("*.py") if "__main__" in file.read_text()}
    told = {command.split()[0] for command in (*TOYS, *ASKED)}
    assert scripts - told == {"engines.py", "make_model.py"}, "the one below, and the one that run.py calls"


@pytest.mark.parametrize("command", TOYS)
def test_a_toy_goes_to_its_end(command, called):
    """Nor is any check of it WRONG."""
    if command == "fused_ops.py" and has_triton():
        pytest.skip("kernels would stay interpreted in this process; tests/kernels/test_triton.py tries them in one of its own")
    said = called(*command.split(), "--toy")
    assert TOYS[command] in said and "WRONG" not in said


@pytest.mark.parametrize("script", ASKED)
def test_others_begin(script, called):
    assert script in called(script, "--help")


def test_a_plan_says_what_a_call_has_time_for(called):
    """What is worth most ends within the minutes, by floors; nothing is made or measured."""
    data = BENCH.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the configs of real models are not at hand")
    lines = called("run.py", "--plan").splitlines()
    assert lines[0].split()[:2] == ["0", "checks"] and lines[2].split()[1:4] == ["lora-2k", "hone", "fused"]
    in_time = [line for line in lines if "too late" not in line]
    assert len(in_time) > 10 and lines[: len(in_time)] == in_time
    assert called("run.py", "--plan", "--begin", "4").splitlines()[1].split()[0] == "4"


def test_the_settings_of_the_engines_are_read(tmp_path, monkeypatch):
    """All cells of engines.py, which take processes: `torchrun --nproc_per_node=2 bench/gpu/engines.py --toy` runs them."""
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    namespace = runpy.run_path(str(BENCH / "gpu" / "engines.py"))
    namespace["make"](tmp_path / "place", 1, toy=True)
    base = json.loads((tmp_path / "place" / "base.json").read_text())
    for name, settings in namespace["CELLS"].items():
        file = tmp_path / "cell.json"
        file.write_text(json.dumps({**base, **settings, "output_dir": str(tmp_path / "out")}))
        assert load([str(file)], "train").train.bf16 is True, name
