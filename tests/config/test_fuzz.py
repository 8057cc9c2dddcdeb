"""Whatever is written, the answer is a Run or a list of mistakes: never another exception; and a Run survives its own YAML."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hone.config import Run, read, to_yaml
from hone.config.knobs import Knob, every_key, knobs
from hone.errors import ConfigError

EXAMPLES = settings(max_examples=150, deadline=None)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["1e-4", "no", "auto", "all", "none", "0", "-1", "4", "[", "{", "a,b", "sft", "1e999", "\x85", "9" * 400]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)
KEYS = st.one_of(st.sampled_from(every_key()), st.sampled_from(list(Run.model_fields)), st.text(max_size=6))
VERBS = st.sampled_from(["train", "check", "chat", "api", "export", "convert"])


def outcome(arguments: list[str], verb: str) -> Run | None:
    """The run, or None where the mistakes were told, each with a message that can be printed on one line."""
    try:
        return read(arguments, verb).run
    except ConfigError as error:
        assert error.mistakes and all(mistake.message for mistake in error.mistakes)
        assert len(str(error).splitlines()) == len(error.mistakes) + 1, str(error)
        return None


def outcome_of_file(content: bytes, verb: str, name: str = "run.yaml") -> Run | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return outcome([str(path)], verb)


@EXAMPLES
@given(st.binary(max_size=60), VERBS, st.sampled_from(["run.yaml", "run.json", "run"]))
def test_any_bytes(content: bytes, verb: str, name: str):
    outcome_of_file(content, verb, name)


@EXAMPLES
@given(st.text(st.sampled_from("abc:-[]{}&*!|>'\"%@`#,? \n\t<~.0e"), max_size=40), VERBS)
def test_anything_near_yaml(content: str, verb: str):
    outcome_of_file(content.encode(), verb)


@EXAMPLES
@given(st.dictionaries(KEYS, VALUES, max_size=8), VERBS)
def test_any_values_of_any_keys(content: dict[str, Any], verb: str):
    outcome_of_file(yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "replace"), verb)
    outcome_of_file(json.dumps(content).encode(), verb, "run.json")


@EXAMPLES
@given(
    st.lists(
        st.one_of(st.text(max_size=8), st.tuples(KEYS, SCALARS).map(lambda row: f"{row[0]}={row[1]}"), KEYS.map("--{}".format))
    ),
    VERBS,
)
def test_any_words(words: list[str], verb: str):
    os.chdir("/")
    outcome([word.replace("\0", "") for word in words], verb)


def valid(knob: Knob) -> st.SearchStrategy[Any]:
    """Values that the knob takes by itself."""
    if knob.choices:
        one = st.sampled_from(knob.choices)
        return st.lists(one, unique=True) if isinstance(knob.default, tuple) else one
    high = None if knob.highest is None else knob.highest[0]
    low = None if knob.lowest is None else knob.lowest[0] + (0 if knob.lowest[1] else 0.5 if high == 1 else 1)
    names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=9)
    if isinstance(knob.default, tuple):
        numbers = {"float": st.floats(0.1, 1), "int": st.integers(1, 999)}
        return st.lists(next((kind for word, kind in numbers.items() if word in str(knob.annotation)), names), max_size=3)
    if isinstance(knob.default, bool) or "bool" in str(knob.annotation):
        return st.booleans()
    if "dict[str, float]" in str(knob.annotation):
        return st.dictionaries(names, st.floats(0, 99), max_size=2)
    if "dict" in str(knob.annotation):
        return st.dictionaries(names, st.one_of(st.integers(), st.booleans(), names), max_size=2)
    if "float" in str(knob.annotation):
        return st.floats(
            low, high, allow_nan=False, allow_infinity=False, exclude_max=knob.highest is not None and not knob.highest[1]
        )
    if "int" in str(knob.annotation):
        return st.integers(None if low is None else int(low), None if high is None else int(high))
    return names


@EXAMPLES
@given(st.data())
def test_a_run_is_the_same_after_its_own_yaml(data: st.DataObject):
    chosen = data.draw(st.lists(st.sampled_from(list(knobs())), unique=True, max_size=5))
    content = {"model_name_or_path": "m", "output_dir": "o", "dataset": "d"}
    content |= {key: data.draw(valid(knobs()[key]), label=key) for key in chosen}
    run = outcome_of_file(yaml.safe_dump(content, allow_unicode=True).encode(), "train")
    if run is None:
        return
    again = outcome_of_file(to_yaml(run).encode(), "train")
    open_tree = run.model_copy(
        update={
            "model": run.model.model_copy(update=dict.fromkeys(("hf_hub_token", "ms_hub_token", "om_hub_token"))),
            "serve": run.serve.model_copy(update={"infer_key": None}),
            "track": run.track.model_copy(update={"swanlab_api_key": None}),
        }
    )
    assert again == open_tree


@EXAMPLES
@given(st.sampled_from(list(knobs())), st.data())
def test_a_valid_value_alone_is_never_of_the_wrong_type(key: str, data: st.DataObject):
    value = data.draw(valid(knobs()[key]))
    content = {"model_name_or_path": "m", "output_dir": "o", "dataset": "d", key: value}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        try:
            read([str(path)], "train")
        except ConfigError as error:
            read_by_rules = ("val_size", "max_steps", "fsdp", "fsdp_config", "export_hub_model_id", "infer_url")
            assert key in read_by_rules or not any("wanted" in mistake.message for mistake in error.mistakes), error
