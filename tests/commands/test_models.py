"""`hone models`: families, what holds a word, and the same for machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hone import cli
from hone.models.catalog import model_catalog


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No catalogue of a user."""
    monkeypatch.setenv("HOME", str(tmp_path))
    model_catalog.cache_clear()
    yield
    model_catalog.cache_clear()


def test_models_lists_families_or_what_holds_a_word(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    assert cli.main(["models"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 133 and said[-1].startswith("131 families, 635 models")
    assert cli.main(["models", "gemma-7b"]) == 0
    said = capsys.readouterr().out
    assert "Gemma: template gemma" in said and "google/gemma-7b-it" in said
    assert cli.main(["models", "b"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    assert cli.main(["models", "codegemma-7b"]) == 0
    said = capsys.readouterr().out
    assert "AI-ModelScope/codegemma-7b-it" in said and "not on ModelScope" in said


def test_models_for_machines(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["models", "--json", "qwen2-vl-2b-instruct-awq"]) == 0
    place = "Qwen/Qwen2-VL-2B-Instruct-AWQ"
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": "Qwen2-VL-2B-Instruct-AWQ", "ids": {"hf": place, "ms": place}, "billions": 2.0, "group": "Qwen2-VL",
            "template": "qwen2_vl", "thinking": False, "media": ["image", "video"],
        }
    ]  # fmt: skip


def test_what_is_not_there_is_said_with_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["models", "qwen9"]) == 2
    assert 'holds "qwen9" (did you mean "Qwen' in capsys.readouterr().err
    assert cli.main(["models", "--jsn"]) == 2
    assert "unknown option --jsn" in capsys.readouterr().err


def test_models_imports_neither_torch_nor_transformers():
    code = "import sys\nfrom hone.cli import main\nassert main(['models', 'qwen3']) == 0\n"
    code += "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_broken_users_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / ".config" / "hone" / "catalog.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[House\n")
    assert cli.main(["models"]) == 2
    assert f"{file}: broken TOML" in capsys.readouterr().err
