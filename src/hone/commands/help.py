"""hone help: what there is, what a command takes, what a setting means.

Holds no text of settings: they are described where they are declared.
"""

from __future__ import annotations

from hone.commands.verbs import LINES, USAGE
from hone.config.describe import describe, list_section
from hone.config.run import Run
from hone.errors import HoneError
from hone.table import nearest

SECTIONS = {  # what each command reads of the tree
    "train": tuple(name for name in Run.model_fields if name not in ("generate", "export", "serve", "api")),
    "check": tuple(Run.model_fields),
    "chat": ("model", "chat", "adapter", "generate", "serve"),
    "api": ("model", "chat", "adapter", "generate", "serve", "api"),
    "export": ("model", "chat", "adapter", "export", "serve"),
}


def main(arguments: list[str]) -> int:
    """Print help on each of `arguments` (a command, section or setting), or the overview."""
    words = [word.lstrip("-") if word.startswith("--") else word for word in arguments]
    print("\n\n".join(about(word) for word in words) if words else overview())
    return 0


def overview() -> str:
    """The commands, how settings are written, and the sections."""
    commands = "\n".join(f"  {verb:<10}{line}" for verb, line in LINES.items())
    return f"""hone: fine-tune, check, use and export large language models

usage: hone COMMAND [FILE.yaml] [key=value ...]

commands:
{commands}

Settings are the keys of LLaMA-Factory, in a YAML or JSON file, as key=value or as --key value; what is written on the
command line wins. One file serves every command, and every mistake in it is reported at once.

  hone train run.yaml learning_rate=1e-4 max_steps=10
  hone help train            the settings of a command
  hone help learning_rate    one setting
  hone help {{{",".join(Run.model_fields)}}}
                             the settings of a section"""


def about(word: str) -> str:
    """Help on one word; raises HoneError where it is nothing we know."""
    if word in LINES:
        parts = [f"usage: hone {word} {USAGE[word]}".rstrip(), f"{LINES[word][0].upper()}{LINES[word][1:]}."]
        parts += [list_section(section) for section in SECTIONS.get(word, ())]
        return "\n\n".join(parts)
    if word in Run.model_fields:
        return list_section(word)
    try:
        return describe(word)
    except HoneError:
        if near := nearest(word, list(LINES)):
            raise HoneError(f'there is no command, section or setting "{word}"{near}; `hone help` lists them') from None
        raise
