"""The command line as a user meets it: exit codes, messages without tracebacks, and a version that is immediate."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import hone
from hone import cli
from hone.commands import env
from hone.commands.verbs import LINES, NOT_HERE, USAGE, VERBS


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hone", *words], capture_output=True, text=True, check=False)


def test_version_imports_neither_pydantic_nor_torch():
    code = "import sys\nfrom hone.cli import main\nassert main(['version']) == 0\n"
    code += "print([name for name in ('pydantic', 'torch', 'yaml', 'transformers', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [f"hone {hone.__version__}", "[]"]


def test_version_is_immediate():
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("version").stdout == f"hone {hone.__version__}\n"
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3, "of a processor; a busy machine takes longer by the clock"


def test_a_mistake_in_the_settings_is_told_before_torch_is_imported(tmp_path: Path):
    (tmp_path / "bad.yaml").write_text("stge: sft\n")
    code = "import sys\nfrom hone.cli import main\nfor verb in ('train', 'check', 'chat', 'export'):\n"
    code += f"    assert main([verb, {str(tmp_path / 'bad.yaml')!r}]) == 2\n"
    code += "print([name for name in ('torch', 'transformers', 'numpy', 'jinja2') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and done.stderr.count('did you mean "stage"') == 4


def test_every_verb_has_its_lines():
    assert set(LINES) == set(USAGE) == set(VERBS)
    assert not set(NOT_HERE) & set(LINES)


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_the_overview(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert all(f"  {verb}" in said for verb in LINES)


@pytest.mark.parametrize("words", [["train", "--help"], ["train", "run.yaml", "-h"], ["help", "train"], ["--help", "train"]])
def test_help_of_a_command(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: hone train [FILE.yaml]") and "  learning_rate (5e-05)" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], 'unknown command "trian" (did you mean "train"?)'),
        (["webui"], "the command webui is not in this version"),
        (["eval", "x.yaml"], "use hone train with do_eval: true"),
        (["help", "lora_rnk"], 'did you mean "lora_rank"'),
        (["help", "chekc"], 'did you mean "check"'),
        (["schema", "x"], "schema takes no arguments"),
        (["version", "x"], "version takes no arguments"),
        (["env", "-v"], "env takes --json alone"),
        (["convert"], "name the file"),
        (["convert", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["train", "model_name_or_path=m", "seed=x"], 'seed: saw "x", wanted a whole number'),
    ],
)
def test_mistakes_exit_2_without_a_traceback(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert said in shown.err and "Traceback" not in shown.err and shown.out == ""


def test_interrupts_and_closed_pipes_end_cleanly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(env, "main", interrupted)
    assert cli.main(["env"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"
    piped = subprocess.run(f"{sys.executable} -m hone schema | head -1", shell=True, capture_output=True, text=True, check=False)
    assert piped.stdout == "{\n" and piped.stderr == ""


def test_schema_prints_json(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["schema"]) == 0
    assert "learning_rate" in json.loads(capsys.readouterr().out)["properties"]


OLD = (
    "model_name_or_path: m\nevaluation_strategy: epoch\nval_size: 0.1\ndataset: d\ngroup_by_length: true\nuse_swanlab: true\n"
    "quantization_bit: 4\nlora_rank: 8\nlr_scheduler_kwargs: {a: 1}\nhf_hub_token: hf_abc\n"
)
TREE = """model:
  model_name_or_path: m
  quantization:
    bit: 4
data:
  dataset:
  - d
  val_size: 0.1
adapter:
  lora_rank: 8
optimizer:
  lr_scheduler_kwargs:
    a: 1
train:
  eval_strategy: epoch
track:
  report_to:
  - swanlab
"""


def test_convert_prints_what_the_file_sets_as_a_tree_that_converts_to_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(OLD)
    assert cli.main(["convert", str(old)]) == 0
    shown = capsys.readouterr()
    assert shown.out == TREE
    assert "note: group_by_length has nothing to do here" in shown.err and "hf_hub_token is a secret and left out" in shown.err
    new.write_text(shown.out)
    assert cli.main(["convert", str(new)]) == 0
    assert capsys.readouterr().out == shown.out
    assert cli.main(["convert", "--all", str(new)]) == 0
    whole = capsys.readouterr().out
    assert "lora_alpha:" in whole and set(TREE.splitlines()) <= set(whole.splitlines())
    assert cli.main(["convert", "--all", str(old)]) == 0
    assert capsys.readouterr().out == whole
    new.write_text(whole)
    assert cli.main(["convert", "--all", str(new)]) == 0
    assert capsys.readouterr().out == whole


def test_env_says_what_is_here_and_what_is_absent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    assert cli.main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hone"] == hone.__version__ and found["Python"] == sys.version.split()[0]
    assert {"commit", "platform", "memory", "torch", "transformers", "peft", "device", "vllm"} <= set(found)
    monkeypatch.setattr(env, "PACKAGES", ("no-such-package",))
    assert cli.main(["env"]) == 0
    assert "- no-such-package: not installed\n" in capsys.readouterr().out
