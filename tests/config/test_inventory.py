"""Every key of the system we succeed is known, and every knob is one that a room honours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import hone
from hone.config.knobs import knobs, words

HF_ONLY_V5 = {"enable_jit_checkpoint", "train_sampling_strategy", "use_cache"}


def known(key: str) -> bool:
    tables = words()
    return any(key in table for table in (knobs(), tables.switches, tables.unneeded, tables.refused, tables.renamed))


@pytest.fixture
def inventory(shared: Path) -> str:
    path = shared.parent / "reference" / "llamafactory.md"
    if not path.is_file():
        pytest.skip("the inventory is not beside the shared data")
    text = path.read_text(encoding="utf-8")
    return text[text.index("### 2.1 ") : text.index("### 2.13")]


def named(text: str) -> set[str]:
    """Every name that stands in backquotes, alone or in a list with commas."""
    return {name for group in re.findall(r"`([a-z0-9_, ]+)`", text) for name in re.findall(r"[a-z][a-z0-9_]+", group)}


def test_all_own_keys_are_known_and_counted(inventory: str):
    own = inventory[: inventory.index("### 2.12")]
    own = re.sub(r"\*\*\[bug\].*|^### .*$|- Derived, not settable.*", "", own, flags=re.M)
    keys = named(own)
    assert [key for key in sorted(keys) if not known(key)] == []
    # On the normal train path, of Megatron-Bridge, of the old eval, and kt_config of inference alone.
    assert len(keys) == 233 + 26 + 8 + 1


def test_the_trainer_keys_the_inventory_names_are_known(inventory: str):
    inherited = inventory[inventory.index("### 2.12") :]
    names = named(inherited) - {"null", "adamw_torch"}
    assert names >= HF_ONLY_V5 and {"tpu_num_cores", "no_cuda", "evaluation_strategy", "image_resolution"} <= names
    assert [name for name in sorted(names) if not known(name)] == []


def test_every_argument_of_the_installed_trainer_is_known():
    arguments = pytest.importorskip("transformers").Seq2SeqTrainingArguments.__dataclass_fields__
    assert len(arguments) > 100
    assert [name for name in arguments if not known(name)] == []


def test_no_key_is_in_two_tables_and_switches_and_names_lead_to_keys():
    tables = words()
    rows = [*knobs(), *tables.switches, *tables.unneeded, *tables.refused, *tables.renamed]
    assert len(rows) == len(set(rows))
    assert all(known(new) and new not in tables.renamed for new in tables.renamed.values())
    assert all(switch.sets in knobs() for switch in tables.switches.values())
    for table in (tables.refused_values, tables.renamed_values):
        assert set(table) <= set(knobs())
    for key, values in tables.renamed_values.items():
        assert set(values.values()) <= set(knobs()[key].choices)
        assert not set(values) & set(knobs()[key].choices)
    for key, values in tables.refused_values.items():
        assert not set(values) & {str(choice) for choice in knobs()[key].choices}


def test_every_knob_is_read_by_some_room():
    """A knob that no code outside config reads would be silently ignored. config/sharding reads its keys for the engine."""
    package = Path(hone.__file__).parent
    files = [path for path in package.rglob("*.py") if path.parent.name != "config" or path.stem == "sharding"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    free = [knob for knob in knobs().values() if len(knob.choices) != 1]  # one word alone needs no reader
    assert [".".join(knob.path) for knob in free if not re.search(rf"\.{knob.path[-1]}\b", code)] == []
