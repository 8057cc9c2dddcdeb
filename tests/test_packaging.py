"""What is imported is what pyproject.toml asks for, and what `make install` installs; README says what each extra is for.

Does not install anything.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
DECLARED = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
EXTRAS = DECLARED["optional-dependencies"]
MODULES = {
    "jinja2": "jinja2",
    "yaml": "pyyaml",
    "pydantic_core": "pydantic",
    "llama_cpp": "llama-cpp-python",
    "compressed_tensors": "compressed-tensors",
    "mlx_lm": "mlx-lm",
    "PIL": "pillow",
}  # module: the package it comes in, where that differs
OWN = {"hone", "tests"} | {
    file.parent.name if (file.parent / "__init__.py").exists() else file.stem
    for folder in ("bench", "demo")
    for file in (PROJECT / folder).rglob("*.py")
}  # a file of a package is none of its own: bench/sides/transformers.py does not make transformers ours
STAND_INS = {"modelscope", "openmind", "gguf", "deepspeed", "ray", "mlx"}
"""Extras that `make install` leaves out, as they are large or built for minutes: without them their tests say so."""
OPTIONAL = {"mlflow", "triton", "trl", "llamafactory", "unsloth", "liger_kernel"}
"""A tracker; what comes with a build of torch for GPUs; peers, where somebody has installed them."""


def named(requirements: list[str]) -> set[str]:
    """The packages of requirements."""
    return {re.split(r"[<>=\[; ]", one)[0] for one in requirements}


def imported(folder: str) -> set[str]:
    """The packages that files below `folder` import, at whatever place."""
    found: set[str] = set()
    for file in (PROJECT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return {MODULES.get(name, name) for name in found - set(sys.stdlib_module_names) - OWN - OPTIONAL}


@pytest.mark.parametrize("folder", ["src", "tests", "demo", "docs", "bench"])
def test_what_is_imported_is_asked_for(folder: str):
    extras = [name for extra, names in EXTRAS.items() for name in names if folder != "src" or extra != "dev"]
    assert imported(folder) - named(DECLARED["dependencies"]) - named(extras) == set()


def test_make_installs_every_extra_in_a_tested_version():
    (installed,) = re.findall(r'-e "\.\[(.*)\]"', (PROJECT / "Makefile").read_text())
    assert set(installed.split(",")) == set(EXTRAS) - STAND_INS
    pinned = named((PROJECT / "constraints.txt").read_text().lower().splitlines())
    asked = named([*DECLARED["dependencies"], *(name for extra in installed.split(",") for name in EXTRAS[extra])])
    assert {name.lower() for name in asked} - pinned == set()


def test_the_readme_says_what_each_extra_is_for():
    table = (PROJECT / "README.md").read_text().partition("| extra |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| .{10,} \|$", table, re.M)
    assert sorted(rows) == sorted(EXTRAS)


def test_every_extra_an_error_names_is_one():
    text = "".join(file.read_text(encoding="utf-8") for file in (PROJECT / "src").rglob("*.py"))
    named_extras = set(re.findall(r'MissingExtra\("[\w]+", "(\w+)"', text))
    assert named_extras and named_extras <= set(EXTRAS)
