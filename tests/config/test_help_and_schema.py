"""Help and schema: every setting is described well enough to be written without other documents."""

from __future__ import annotations

import pytest

from hone.config import read
from hone.config.describe import describe, example, list_section
from hone.config.knobs import every_key, knobs, words
from hone.config.run import Run
from hone.config.schema import json_schema
from hone.errors import ConfigError, HoneError


@pytest.mark.parametrize("key", every_key())
def test_every_key_is_described(key: str):
    text = describe(key)
    assert text.startswith(key) and len(text.splitlines()) >= 2
    assert max(len(line) for line in text.splitlines()) <= 100


def test_a_knobs_description_has_everything():
    text = describe("warmup_steps")
    for part in ("warmup_steps   (optimizer.warmup_steps)", "type      a number, 0 or more", "default   0", "unit      steps",
                 "section   optimizer, basic", "example   warmup_steps: 20"):  # fmt: skip
        assert part in text
    assert describe("optimizer.warmup_steps") == text
    assert "finetuning_type: lora" in describe("lora_rank")
    assert "hqq: " in describe("quantization_method") and "not in this version" in describe("quantization_method")
    assert "the old word for eval_strategy" in describe("evaluation_strategy")


def test_an_unknown_key_gets_the_nearest():
    with pytest.raises(HoneError, match='did you mean "lora_alpha"'):
        describe("lora_alfa")


@pytest.mark.parametrize("key", list(knobs()))
def test_help_is_whole_sentences_and_every_example_loads(key: str):
    knob = knobs()[key]
    assert knob.help[0].isupper() and knob.help.endswith(".") and len(knob.help) >= 20 and knob.level in ("basic", "advanced")
    assert knob.help.isascii()
    arguments = ["model_name_or_path=m", "output_dir=o", "dataset=d,e", f"{key}={example(knob)}"]
    try:
        read(arguments, "train")
    except ConfigError as error:  # alone it may lack its partner, but its type is right
        assert all("wanted" not in mistake.message for mistake in error.mistakes), error


@pytest.mark.parametrize("section", list(Run.model_fields))
def test_sections_list_their_keys(section: str):
    text = list_section(section)
    assert all(f"  {knob.key} (" in text for knob in knobs().values() if knob.section == section)


def test_the_schema_has_every_key_and_says_what_is_refused():
    schema = json_schema()
    properties = schema["properties"]
    assert set(properties) == set(every_key())
    assert schema["required"] == ["model_name_or_path"] and schema["additionalProperties"] is False
    assert properties["learning_rate"]["type"] == "number" and properties["learning_rate"]["exclusiveMinimum"] == 0
    assert properties["save_strategy"]["enum"] == ["no", "steps", "epoch"]
    assert properties["lora_alpha"]["anyOf"] == [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}]
    assert {"type": "array", "items": {"type": "string"}} in properties["dataset"]["anyOf"]
    for key in words().refused:
        assert properties[key]["deprecated"] and "Instead:" in properties[key]["description"]
    assert all(row["description"] for row in properties.values())


def test_the_schema_is_a_valid_schema():
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    validator.check_schema(json_schema())
    check = validator(json_schema())
    assert check.is_valid({"model_name_or_path": "m", "dataset": "a,b", "learning_rate": 1e-4, "lora_alpha": None})
    assert not check.is_valid({"model_name_or_path": "m", "learning_rate": -1})
    assert not check.is_valid({"model_name_or_path": "m", "lerning_rate": 1})
