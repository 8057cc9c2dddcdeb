"""Writes docs/formats.md out of the table of chat formats and what its laws say: `python docs/make_formats.py`, or `make docs`.

Knows no single format; the makers' templates, with which formats are compared, must lie beside the checkout.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hone.chat.laws import LAWS
from hone.chat.survey import Surveyed, survey
from hone.chat.table import rows
from hone.models.stand_in import stand_in_tokenizer

PAGE = Path(__file__).with_name("formats.md")
OFFICIALS = PAGE.parents[2] / "shared" / "data" / "chat_templates"
OPENING = """# Chat formats

Written by `make docs` from `src/hone/chat/formats/table.toml` and from what `hone laws` finds of each row, with a tokenizer
made for it. `template: NAME` chooses a row. Several names may be one wire format; where LLaMA-Factory writes something else
than the model's maker, the maker is followed ([migrating.md](migrating.md#chat-formats-that-differ-from-llama-factorys)).

Try one by yourself: `hone render --template llama3 --tokenizer DIR talk.json` prints, as JSON, the text that a format makes
of `{"messages": [...], "tools": [...]}`, its ids, its labels (-100 where nothing is learned) and the ids that sampling starts
from; `hone laws llama3 --tokenizer DIR` tries the laws with your tokenizer, and exits with 1 where one is broken. Without
`--template` or a name it is the tokenizer's own format.

"""
COLUMNS = """
- **thinking**: answer: the answer opens its own thought; prompt: the prompt opens it; question: the prompt does, but not
  behind tool results; never: the prompt says an empty thought, whatever `enable_thinking` says. Without
  a word, the format has no place for thoughts, and they are ordinary text.
- **tools**: the way of tool calls (`tool_format` chooses another).
- **system**: whether there is a default system prompt; it is always the maker's. `default_system` sets any.
- **laws**: + held, - nothing to try it on, X broken. In order:
"""
SIGNS = {True: "+", False: "X", None: "-"}


def page(found: list[Surveyed]) -> str:
    """The whole page."""
    head = [
        "| template | format | thinking | tools | system | media | laws | compared with |",
        "|---|---|---|---|---|---|---|---|",
    ]
    parts = [
        *(OPENING + _counts(found) + COLUMNS + _laws(), "## Templates", "", *head, *map(line_of, found), ""),
        *("## Known differences", "", "Where a row renders otherwise than the file it is compared with, and why.", ""),
        *(line for one in found for line in differences_of(one)),
        *("", "## Notes", "", *(f"- `{one.row.name}`: {_text(one.row.note)}" for one in found if one.row.note)),
    ]
    return "\n".join(parts) + "\n"


def _counts(found: list[Surveyed]) -> str:
    tried = [law for one in found for law in one.laws if law.held is not None]
    compared = [one for one in found if one.compared]
    probes = sum(len(one.compared) for one in compared)
    equal = probes - sum(len(one.differs) for one in compared)
    lines = [
        f"- {len(found)} names of {len({one.row.format for one in found})} wire formats",
        f"- {sum(bool(law.held) for law in tried)} of {len(tried)} laws held",
        f"- {len(compared)} compared with {len({one.row.official for one in compared})} makers' templates: "
        f"{equal} of {probes} conversations equal, the others known differences",
    ]
    return "\n".join(lines) + "\n"


def _laws() -> str:
    return "".join(f"  {number}. {law}\n" for number, law in enumerate(LAWS, 1))


def line_of(one: Surveyed) -> str:
    """What the table says of a row."""
    row = one.row
    media = ", ".join(f"{kind} `{token}`" for kind, token in row.media.items()).replace("\n", "\\n")
    official = f"`{row.official}`, {len(one.compared)} probes" if one.compared else ""
    cells = [
        f"`{row.name}`",
        f"`{row.format}`",
        row.thinking if row.thinking != "none" else "",
        f"`{row.dialect}`",
        "yes" if row.system else "",
        media,
        "".join(SIGNS[law.held] for law in one.laws),
        official + (f", {len(one.differs)} differ" if one.differs else ""),
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def differences_of(one: Surveyed) -> list[str]:
    """Where it renders otherwise than its maker, and why."""
    if not one.differs:
        return []
    names = ", ".join(name for name, _ in one.differs)
    reasons = [f"  - {trait}: {_text(reason)}" for trait, reason in one.row.differs.items()]
    return [f"- `{one.row.name}`, in {len(one.differs)} of {len(one.compared)} probes ({names}):", *reasons]


def _text(words: str) -> str:
    """Words in which a token is no HTML."""
    return words.replace("<", "\\<")


if __name__ == "__main__":
    if not OFFICIALS.is_dir():
        sys.exit(f"docs/make_formats.py: no makers' templates in {OFFICIALS}; without them nothing can be compared")
    PAGE.write_text(page(list(survey(rows().values(), stand_in_tokenizer, OFFICIALS))), encoding="utf-8")
