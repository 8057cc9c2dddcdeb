"""The house keeps its own rules: floors, sizes, first words. `python tests/test_house.py` prints the lines of every room.

Does not know what any room does; it reads the source as text and syntax trees.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = PROJECT / "src" / "hone"
LONGEST_FILE, LONGEST_TEST, LONGEST_FUNCTION = 500, 800, 60

ROOMS = {  # room or single file: (floor, lines planned, what it may use of its own floor and of rooms that are not open to all)
    "__init__": (0, 10, ()),
    "errors": (0, 135, ()),
    "log": (0, 60, ("errors",)),
    "table": (0, 80, ("errors",)),
    "post": (0, 100, ()),
    "ages": (0, 30, ()),
    "config": (1, 5280, ()),
    "kernels": (1, 2680, ()),
    "chat": (2, 5660, ()),
    "models": (2, 4790, ()),
    "adapters": (2, 1720, ()),
    "optim": (2, 650, ()),
    "data": (3, 3860, ("chat", "models.hubs")),
    "inference": (3, 3400, ("chat", "models", "adapters", "data.batch")),
    "export": (3, 4480, ("chat", "models", "adapters")),
    "evaluation": (3, 100, ("chat", "models")),
    "objectives": (
        4,
        3450,
        (
            *("chat", "data", "models.policy", "models.forward", "models.reference", "models.pooling", "models.score_head"),
            *("inference.base", "inference.rollout"),
        ),
    ),
    "serving": (4, 2460, ("chat", "inference.base", "models.media.pictures")),
    "studio": (5, 830, ("chat", "inference.base", "serving")),
    "training": (
        5,
        10050,
        (
            "chat",
            "models",
            "adapters",
            "optim",
            "data",
            "inference",
            "evaluation",
            "objectives.base",
            "objectives.build",
            "objectives.onpolicy",
        ),
    ),
    "commands": (6, 1120, ("*",)),
    "cli": (7, 100, ("*",)),
    "__main__": (8, 10, ("*",)),
}
OPEN_TO_ALL = ("__init__", "errors", "log", "table", "post", "ages", "config", "kernels")

HEAVY = {  # package: where it may be imported at run time; a file's place is "room" or "room/file"
    "torch": "kernels models adapters optim data inference export evaluation objectives training commands/env commands/check",
    "transformers": "models inference export commands/env",
    "accelerate": "training/device training/engines/base training/engines/ddp training/engines/fsdp commands/env",
    "peft": "adapters inference commands/env",
    "deepspeed": "training/engines/zero",
    "ray": "training/processes/ray_cluster",
    "fastapi": "serving/web",
    "starlette": "serving/web",
    "uvicorn": "serving/web",
    "nicegui": "studio/web",
    "pydantic": "config serving",
    "httpcore2": "serving/fetch",
    "triton": "kernels/gpu/rms_norm kernels/gpu/rope kernels/gpu/gated kernels/gpu/float8",
}
DOORS = {  # the only imports inside functions: file: packages. Each is an optional dependency's single door
    "table": ("*",),
    "data/catalog": ("huggingface_hub",),
    "data/files": ("datasets", "fsspec", "huggingface_hub"),
    "inference/grammar": ("llguidance",),
    "export/gguf/package": ("gguf",),
    "export/quantized/mlx": ("mlx", "mlx_lm"),
    "export/quantized/nf4": ("bitsandbytes",),
    "models/hubs": ("modelscope", "openmind_hub"),
    "models/llamacpp/child": ("llama_cpp",),
    "models/media/pictures": ("PIL",),
    "models/media/sounds": ("soundfile",),
    "optim/bnb": ("bitsandbytes",),
    "training/engines/zero": ("deepspeed",),
    "training/processes/ray_cluster": ("ray",),
    "training/results": ("matplotlib",),
}
DRAWERS = ("util", "utils", "misc", "helper", "helpers", "manager", "common", "shared")
SOURCES = sorted(SOURCE.rglob("*.py"))


@dataclass(frozen=True)
class Import:
    """One imported module. place: "room/file" of the importer; typing: only for type checkers; inside: in a function."""

    place: str
    line: int
    module: str
    typing: bool
    inside: bool

    def __str__(self) -> str:
        return f"src/hone/{self.place}.py:{self.line}: imports {self.module}"


def place_of(file: Path) -> str:
    """ "models/load" for src/hone/models/load.py."""
    return file.relative_to(SOURCE).with_suffix("").as_posix()


def tree_of(file: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imports_of(file: Path) -> list[Import]:
    """Every import of a file, wherever it stands."""
    found: list[Import] = []

    def walk(node: ast.AST, typing: bool, inside: bool) -> None:
        for module in _modules(node):
            found.append(Import(place_of(file), node.lineno, module, typing, inside))
        guards = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        within = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            walk(child, typing or guards, within)

    walk(tree_of(file), False, False)
    return found


def _modules(node: ast.AST) -> list[str]:
    """The modules an import statement names; `from hone.models import policy` may name a module or a member: both are given."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert not node.level, f"line {node.lineno}: imports are absolute"
        if node.module and node.module.count(".") < 2 and node.module.startswith("hone"):
            return [f"{node.module}.{alias.name}" for alias in node.names]
        return [node.module or ""]
    return []


def every_import() -> list[Import]:
    """The imports of the whole package."""
    return [found for file in SOURCES for found in imports_of(file)]


def room_of(path: str) -> str:
    """ "models" of "models/load" or of "models.load"."""
    return re.split(r"[./]", path)[0]


def may_use(importer: str, target: str) -> bool:
    """Whether a file of room `importer` may import hone.`target` ("models.policy")."""
    room = room_of(target)
    if room == importer:
        return True
    if room not in ROOMS:
        return False
    floor, _, granted = ROOMS[importer]
    if "*" in granted:
        return ROOMS[room][0] < floor
    named = any(target == grant or target.startswith(f"{grant}.") for grant in granted)
    return named or (room in OPEN_TO_ALL and ROOMS[room][0] < floor)


def fail_with(found: list[str], rule: str) -> None:
    """Fail with one line an offender."""
    assert not found, f"{rule}:\n  " + "\n  ".join(found)


def test_every_file_is_in_a_room():
    strangers = sorted({room_of(place_of(file)) for file in SOURCES} - set(ROOMS))
    fail_with(strangers, "rooms that the plan does not know; add them to docs/architecture.md and to ROOMS")


def test_rooms_import_only_from_floors_below():
    ours = [found for found in every_import() if found.module.split(".")[0] == "hone"]
    wrong = [found for found in ours if not may_use(room_of(found.place), found.module.partition(".")[2] or "__init__")]
    fail_with(list(map(str, wrong)), "a room may not use these (a type is knowledge too)")


def test_heavy_packages_stay_in_their_rooms():
    wrong = [found for found in every_import() if not found.typing and not _housed(found)]
    fail_with(list(map(str, wrong)), "these packages are not imported there at run time")


def _housed(found: Import) -> bool:
    package = found.module.split(".")[0]
    if package not in HEAVY:
        return True
    return bool({found.place, room_of(found.place)} & set(HEAVY[package].split()))


def test_functions_import_only_at_the_doors():
    inside = [found for found in every_import() if found.inside and not found.typing]
    wrong = [found for found in inside if not {"*", found.module.split(".")[0]} & set(DOORS.get(found.place, ()))]
    fail_with(list(map(str, wrong)), "imports inside functions; an optional dependency has one door, listed in DOORS")


@pytest.mark.parametrize("rule", ["src/hone", "tests"])
def test_files_are_short(rule: str):
    limit = LONGEST_TEST if rule == "tests" else LONGEST_FILE
    long = [(file, lines_of(file)) for file in sorted((PROJECT / rule).rglob("*.py")) if lines_of(file) > limit]
    fail_with([f"{file.relative_to(PROJECT)}: {lines} lines" for file, lines in long], f"longer than {limit} lines")


def test_functions_are_short():
    long = [
        f"{place_of(file)}.py:{function.lineno}: {function.name} has {length} lines"
        for file in SOURCES
        for function in functions_of(tree_of(file))
        if (length := function.end_lineno - function.lineno + 1) > LONGEST_FUNCTION
    ]
    fail_with(long, f"functions longer than {LONGEST_FUNCTION} lines")


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines_of(file: Path) -> int:
    """All lines of a file, empty ones too."""
    return len(file.read_text(encoding="utf-8").splitlines())


def budget() -> int:
    """Lines the package may have: what the plan gives the rooms that stand, so that a new room brings its own."""
    standing = {room_of(place_of(file)) for file in SOURCES}
    return sum(planned for room, (_, planned, _) in ROOMS.items() if room in standing)


def test_the_package_is_within_its_budget():
    total = sum(map(lines_of, SOURCES))
    assert total <= budget(), f"{total} lines, planned {budget()}; see `python tests/test_house.py`, and delete before you raise"


def test_first_words():
    wrong = [
        f"{place_of(file)}.py: {said!r}" for file in SOURCES if len(ideas(said := _docstring(tree_of(file)))) < _ideas_due(file)
    ]
    fail_with(wrong, "a file opens with what it is and what it does not know")


def _ideas_due(file: Path) -> int:
    """A room's __init__ says what the room is; every other file also what it does not know."""
    return 1 if file.name == "__init__.py" else 2


def ideas(docstring: str) -> list[str]:
    """Its sentences and half-sentences; "The settings: pydantic only, never torch." has two."""
    return [part for part in re.split(r"[.:;](?:\s+|$)", docstring) if part.strip()]


def _docstring(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    return ast.get_docstring(node) or ""


def test_what_is_public_says_what_it_is():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    silent = [
        f"{place_of(file)}.py:{node.lineno}: {node.name}"
        for file in SOURCES
        for node in tree_of(file).body
        if isinstance(node, kinds) and not node.name.startswith("_") and not _docstring(node)
    ]
    fail_with(silent, "public functions and classes without a docstring")


def test_source_is_ascii():
    wrong = []
    for file in SOURCES:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if not line.isascii():
                wrong.append(f"{place_of(file)}.py:{number}: {line.strip()}")
    fail_with(wrong, "not ASCII; write \\u escapes, or put it where data are")


def test_no_error_is_swallowed():
    wrong = [
        f"{place_of(file)}.py:{node.lineno}"
        for file in SOURCES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.ExceptHandler) and _broad(node) and not _minded(node)
    ]
    fail_with(wrong, "a handler of every error that neither raises nor passes it on")


def _broad(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or ast.unparse(handler.type) in ("Exception", "BaseException")


def _minded(handler: ast.ExceptHandler) -> bool:
    """Whether it raises, or uses the error it caught (a thread that hands it to another)."""
    parts = [part for statement in handler.body for part in ast.walk(statement)]
    return any(isinstance(part, ast.Raise) or (isinstance(part, ast.Name) and part.id == handler.name) for part in parts)


def test_no_notes_to_self():
    wrong = []
    for file in SOURCES:
        with tokenize.open(file) as text:
            for token in tokenize.generate_tokens(text.readline):
                if token.type == tokenize.COMMENT and re.search(r"\b(TODO|FIXME|XXX|HACK)\b", token.string):
                    wrong.append(f"{place_of(file)}.py:{token.start[0]}: {token.string}")
    fail_with(wrong, "a note to self is an issue, not a comment")


def test_no_drawers():
    wrong = [str(file.relative_to(PROJECT)) for file in SOURCES if set(file.stem.split("_")) & set(DRAWERS)]
    fail_with(wrong, "a file is named after its idea")


def test_hone_version_loads_neither_torch_nor_pydantic():
    look = "print(sorted({'torch', 'pydantic', 'yaml'} & set(sys.modules)))"
    code = f"import sys; from hone.cli import main; main(['version']); {look}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


def test_the_rules_would_find_offenders(tmp_path: Path):
    assert may_use("training", "objectives.base") and not may_use("training", "objectives.sft")
    assert may_use("objectives", "models.policy") and not may_use("objectives", "models.load")
    assert (
        may_use("commands", "training.plan") and not may_use("chat", "models.tokenizer") and not may_use("config", "chat.codec")
    )
    assert not _housed(Import("training/loop", 1, "accelerate.utils", False, False))
    assert _housed(Import("training/device", 1, "accelerate", False, False))
    assert len(ideas("Says nothing more than this.")) == 1


def table() -> list[str]:
    """One line a room: its lines, the plan's, its longest file."""
    rows = [f"{'room':<14}{'lines':>7}{'planned':>9}   longest file"]
    files: dict[str, list[Path]] = {}
    for file in SOURCES:
        files.setdefault(room_of(place_of(file)), []).append(file)
    for room in sorted(files, key=lambda name: (ROOMS[name][0], name) if name in ROOMS else (99, name)):
        longest = max(files[room], key=lines_of)
        planned = ROOMS.get(room, (0, 0, ()))[1]
        rows.append(f"{room:<14}{sum(map(lines_of, files[room])):>7}{planned:>9}   {place_of(longest)}.py {lines_of(longest)}")
    return [*rows, f"{'in all':<14}{sum(map(lines_of, SOURCES)):>7}{budget():>9}"]


if __name__ == "__main__":
    print("\n".join(table()))
