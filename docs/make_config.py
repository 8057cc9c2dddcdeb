"""Writes docs/config.md out of the settings' own declarations: `python docs/make_config.py`, or `make docs`.

Knows no single setting.
"""

from __future__ import annotations

from pathlib import Path

from hone.config.describe import example, written
from hone.config.knobs import KINDS, Knob, knobs, sections_of, words
from hone.config.run import Run

PAGE = Path(__file__).with_name("config.md")
OPENING = """# Settings

Written by `make docs` from the declarations in `src/hone/config`; `hone help KEY` says the same of one key, and
`hone schema` prints the JSON schema for editors. The keys are those of LLaMA-Factory and Hugging Face: flat, in YAML or JSON,
overruled by `key=value` or `--key value` on the command line. A key that is unknown, of a wrong type or without effect in the
run is an error; all errors are reported at once.
"""


def page() -> str:
    """The whole page."""
    honoured = [part for section in Run.model_fields for part in _section(section)]
    return "\n".join([OPENING, *honoured, *_switches(), *_refused()]) + "\n"


def _section(section: str) -> list[str]:
    own = [knob for knob in knobs().values() if knob.section == section]
    title = own[0].help if section in KINDS else sections_of(Run.model_fields[section].annotation)[0].__doc__ or ""
    lines = [f"## {section}", "", " ".join(title.split()), "", "| key | default | what it does |", "|---|---|---|"]
    return [*lines, *map(_row, own), ""]


def _row(knob: Knob) -> str:
    default = "required" if knob.required else f"`{written(knob.default)}`"
    words_of_kind = {kind: word for word, kind in KINDS[knob.section][2].items()} if knob.kinds else {}
    only = [f"Only with {' or '.join(f'`{words_of_kind[kind]}`' for kind in knob.kinds)}."] if knob.kinds else []
    choices = [f"One of {', '.join(f'`{choice}`' for choice in knob.choices)}."] if 0 < len(knob.choices) <= 12 else []
    unit = [f"In {knob.unit}."] if knob.unit else []
    text = " ".join([knob.help, *choices, *unit, *only, f"Example: `{knob.key}: {example(knob)}`."])
    return f"| `{knob.key}` | {default} | {_cell(text)} |"


def _switches() -> list[str]:
    rows = [f"| `{key}` | {_cell(row.help)} |" for key, row in words().switches.items()]
    renamed = [f"| `{old}` | The old word for `{new}`. |" for old, new in words().renamed.items()]
    return ["## Other words", "", "Understood as well.", "", "| key | meaning |", "|---|---|", *rows, *renamed, ""]


def _refused() -> list[str]:
    idle = [f"| `{key}` | {_cell(row.why)} |" for key, row in words().unneeded.items()]
    refused = [f"| `{key}` | {_cell(row.reason)} | {_cell(row.instead)} |" for key, row in words().refused.items()]
    return [
        *("## Nothing to do", "", "Accepted with any value, and said in a line: hone does it otherwise.", ""),
        *("| key | why |", "|---|---|", *idle, ""),
        *("## Not in this version", "", "Accepted with the default, which asks for nothing; refused with any other value.", ""),
        *("| key | reason | instead |", "|---|---|---|", *refused),
    ]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
