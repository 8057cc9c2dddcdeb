"""Every script for a GPU begins, and goes to its end on a CPU as a toy, so that a device's minutes are not lost on a slip.

What they print means nothing here; what only a device has (its clock, its memory, Triton's compiler) is not tried.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from hone.config import load

BENCH = Path(__file__).resolve().parents[2] / "bench"
SAYS = {  # what its last lines say
    "fused_ops.py": "a small Llama: losses",
    "lora_layers.py": "down      without",
    "faults.py": "memory did not run out",
    "plan_memory.py moe lora kept 2K": "1 cases; plan / measured",
    "run.py lora-2k --only hone* --steps 2": "Llama",
}


def said(command: str) -> str:
    """What a script prints as a toy; it ends well."""
    script, *words = command.split()
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCH), str(BENCH.parent / "src")]), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, str(BENCH / "gpu" / script), *words, "--toy"]
    done = subprocess.run(call, capture_output=True, text=True, env=variables, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_script_is_known_here():
    scripts = {file.name for file in (BENCH / "gpu").glob("*.py") if "__main__" in file.read_text()}
    told = {command.split()[0] for command in SAYS}
    below, called = {"packed_attention.py", "engines.py", "serving.py"}, {"make_model.py"}
    assert scripts - told == below | called


@pytest.mark.slow
@pytest.mark.parametrize("command", SAYS)
def test_a_script_goes_to_its_end(command):
    assert SAYS[command] in said(command)


def test_attention_goes_to_its_end(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["packed_attention.py", "--toy"])
    runpy.run_path(str(BENCH / "gpu" / "packed_attention.py"), run_name="__main__")
    assert "a prompt of 2,048 for 8 answers of 512" in capsys.readouterr().out


def test_serving_begins(monkeypatch, capsys):
    """It asks servers that are installed beside hone; bench/serving.py does the same with hone's own on a CPU."""
    monkeypatch.setattr(sys, "argv", ["serving.py", "--help"])
    monkeypatch.setattr(sys, "path", [str(BENCH / "gpu"), str(BENCH), *sys.path])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(BENCH / "gpu" / "serving.py"), run_name="__main__")
    assert "serving.py" in capsys.readouterr().out


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
