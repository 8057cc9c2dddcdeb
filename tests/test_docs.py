"""What the pages say is true where a machine can tell: links, YAML, commands, keys, and the page of all settings.

Does not judge the prose.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml

from hone.chat.table import rows
from hone.commands.verbs import VERBS
from hone.config import load
from hone.config.knobs import knobs

PROJECT = Path(__file__).resolve().parents[1]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language; "" for those without one."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@EVERY_PAGE
def test_links_lead_somewhere(page: Path):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not target.startswith("http") and not (page.parent / target).exists()]
    assert not missing


@EVERY_PAGE
def test_yaml_blocks_are_settings_that_load(page: Path, tmp_path: Path):
    for number, block in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        assert load([str(file)], "train").model.model_name_or_path == yaml.safe_load(block)["model_name_or_path"]


@EVERY_PAGE
def test_json_blocks_are_json(page: Path):
    for block in blocks(page, "json"):
        assert json.loads(block)


@EVERY_PAGE
def test_commands_exist(page: Path):
    lines = [line.removeprefix("$ ") for block in blocks(page, "") for line in block.splitlines()]
    said = re.findall(r"`hone ([a-z]+)", page.read_text(encoding="utf-8"))
    said += [shlex.split(line.replace("'", ""))[1] for line in lines if line.startswith("hone ")]
    assert set(said) <= set(VERBS), set(said) - set(VERBS)


@EVERY_PAGE
def test_keys_that_are_written_with_a_value_exist(page: Path):
    keys = set(re.findall(r"`([a-z][a-z_0-9]+): [^`]+`", page.read_text(encoding="utf-8")))
    if page.name != "config.md":  # it names refused keys too
        assert keys <= {*knobs(), "packing_", "use_galore"}, keys - set(knobs())


@EVERY_PAGE
def test_no_heading_stands_twice_and_a_bold_opening_begins_a_paragraph(page: Path):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ .*", text, re.MULTILINE)
    assert sorted(set(headings)) == sorted(headings)
    assert not re.findall(r"(?<=[^\n]\n)\*\*[^*\n]+\.\*\*.*", text)


def test_the_settings_page_is_current():
    made = runpy.run_path(str(PROJECT / "docs" / "make_config.py"))["page"]()
    assert (PROJECT / "docs" / "config.md").read_text(encoding="utf-8") == made, "write it anew: make docs"


def test_the_formats_page_is_current(shared):
    made = runpy.run_path(str(PROJECT / "docs" / "make_formats.py"))["page"](shared / "chat_templates")
    assert (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8") == made, "write it anew: make docs"


def test_every_template_stands_on_the_formats_page():
    page = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert listed == list(rows())
    assert f"- {len(rows())} names" in page


def test_without_the_makers_templates_the_formats_page_is_not_written(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    script = tmp_path / "docs" / "make_formats.py"
    script.write_text((PROJECT / "docs" / "make_formats.py").read_text(encoding="utf-8"))
    with pytest.raises(SystemExit, match="without them nothing can be compared"):
        runpy.run_path(str(script), run_name="__main__")
    assert not (tmp_path / "docs" / "formats.md").exists()
