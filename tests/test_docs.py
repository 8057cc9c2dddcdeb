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

from hone.chat.survey import Surveyed
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


def test_the_formats_page_is_current():
    """But for what the laws say of each row, which tests/chat/test_laws.py compares as it finds it."""
    written = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")
    made = runpy.run_path(str(PROJECT / "docs" / "make_formats.py"))["page"]([Surveyed(row, ()) for row in rows().values()])
    found = r"^- [0-9].*\n|^- `\w+`, in [0-9].*\n(  - .*\n)*|(?<=\|)[^|\n]*\|[^|\n]*\|$"
    assert re.sub(found, "", written, flags=re.MULTILINE) == re.sub(found, "", made, flags=re.MULTILINE), (
        "write it anew: make docs"
    )


def test_the_formats_page_counts_what_stands_on_it():
    page = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|.*\| ([-+X]{6}) \| (.*) \|$", page, re.MULTILINE)
    names, formats, laws, compared = zip(*lines, strict=True)
    assert list(names) == list(rows())
    assert f"- {len(names)} names of {len(set(formats))} wire formats\n" in page
    tried = "".join(laws)
    assert f"- {tried.count('+')} of {tried.count('+') + tried.count('X')} laws held\n" in page
    told = [re.fullmatch(r"`(.+)`, (\d+) probes(?:, (\d+) differ)?", text) for text in compared if text]
    probes, differ = (sum(int(one[group] or 0) for one in told) for group in (2, 3))
    makers = len({one[1] for one in told})
    assert f"- {len(told)} compared with {makers} makers' templates: {probes - differ} of {probes} conversations equal" in page


def test_without_the_makers_templates_the_formats_page_is_not_written(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    script = tmp_path / "docs" / "make_formats.py"
    script.write_text((PROJECT / "docs" / "make_formats.py").read_text(encoding="utf-8"))
    with pytest.raises(SystemExit, match="without them nothing can be compared"):
        runpy.run_path(str(script), run_name="__main__")
    assert not (tmp_path / "docs" / "formats.md").exists()
