"""Every causal architecture that a catalogued family uses, tiny and random, through everything hone does with a model.

The tolerances stand with what is found (tests/architectures.py), which docs/models.md writes down.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hone.models.quirks import PADDED_ONLY
from hone.models.shape import Shape
from tests.architectures import examine
from tests.families import FAMILIES, REMOTE, VOCAB

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
WITH_BALANCE_LOSS = set(
    "dbrx deepseek_v4 ernie4_5_moe gpt_oss granitemoe granitemoehybrid jamba minimax minimax_m2 mixtral phimoe qwen2_moe "
    "qwen3_moe qwen3_next qwen3_5_moe_text".split()
)
NEVER_SHARED = set(
    "cohere2 deepseek_v32 exaone4 gemma2 gemma3_text gemma3n_text gemma4_text gemma4_text+experts glm_moe_dsa gpt_oss "
    "llama4_text mimo_v2_flash ministral mistral".split()
)
"""Windows and chunks are counted by place; an indexer chooses among places."""
MASKED = set("deepseek_v32 falcon glm_moe_dsa gptj".split())
"""Their packed rows need a mask: an indexer reads it, or their attention is code of their own."""
NORM, ROPE, GATED = {"rms_norm"}, {"rope"}, {"gated"}
NEVER_FUSED = {
    **dict.fromkeys("bloom gpt2 gptj opt".split(), NORM | ROPE | GATED),
    **dict.fromkeys("cohere cohere2 olmo phimoe stablelm".split(), NORM),
    **dict.fromkeys("bailing_hybrid deepseek_v2 deepseek_v4 gemma3n_text gemma4_text gemma4_text+experts jamba".split(), ROPE),
    **dict.fromkeys("deepseek_v32 glm_moe_dsa kimi_linear llama4_text".split(), ROPE),
    **dict.fromkeys("apertus gpt_oss seed_oss".split(), GATED),
    **dict.fromkeys("dbrx falcon gpt_neox phi starcoder2".split(), NORM | GATED),
    "mamba": ROPE | GATED,
}
"""What a family has not, or computes otherwise: layer norms, other rotary codes, more in a gated product."""
EVERY = pytest.mark.parametrize("family", FAMILIES)


def last_names(paths: frozenset[str]) -> set[str]:
    return {path.rpartition(".")[-1] for path in paths}


@EVERY
def test_log_probs_are_those_of_the_plain_forward(family):
    found = examine(family)
    assert found.fast, "all logits are formed"
    assert found.right, found.padded


@EVERY
def test_fused_operations_change_nothing(family):
    found = examine(family)
    assert found.operated.none, found.operated
    assert found.together is None or found.together.none, found.together
    assert found.operations == {"rms_norm", "rope", "gated"} - NEVER_FUSED.get(family, set())


@EVERY
def test_in_bf16_gradients_are_as_near_as_the_plain_forwards(family):
    """Both round, not in the same order, so that neither is the other's reference: fp32 is. At most 1.2 times was seen."""
    plain, fast = examine(family).halves
    assert fast < 1.4 * plain, (plain, fast)


@EVERY
def test_lora_is_the_plain_forwards_with_peft_s_layers(family):
    """In bf16 as above, at most 1.6 times in eight draws of an adapter: attention of these weights is sharp."""
    found = examine(family)
    assert found.learns, (found.adapted, found.half)


@EVERY
def test_packed_sequences_are_isolated_or_never_packed(family):
    found = examine(family)
    if found.packed is not None:
        assert found.isolated, (found.leak, found.packed)
    else:
        assert found.padded_only, "the self-test alone found it: write it into PADDED_ONLY, with the reason"
        assert found.leak > 1e-3, "it does not leak any more: take it out of PADDED_ONLY"


@EVERY
def test_sequences_of_a_row_attend_each_by_itself(family):
    found = examine(family)
    assert found.by_sequence == (found.packed is not None and family not in MASKED)


@EVERY
def test_what_pairs_begin_with_is_computed_once_or_never_shared(family):
    found = examine(family)
    assert (found.shared is None) == (found.packed is None or family in NEVER_SHARED)
    assert found.shared is None or found.shared.none, found.shared


def test_every_family_that_is_never_packed_is_tried():
    assert set(PADDED_ONLY) == {family for family in FAMILIES if examine(family).packed is None}


@EVERY
def test_lora_goes_to_the_layers_that_are_meant_and_to_no_other(family):
    found, wanted = examine(family), FAMILIES[family]
    assert last_names(found.targets) == set(wanted.targets.split())
    assert last_names(found.left) == set(wanted.left.split())
    assert bool(found.fused) == wanted.experts
    assert not any(part in ("gate", "router", "indexer") for path in found.targets for part in path.split("."))


@EVERY
def test_its_sizes_are_numbers_for_the_plan(family):
    """Keys and values of two heads of 8; the widest where layers differ, as Gemma 3n's and Gemma 4's do."""
    cached = {"gemma4_text": 64, "gemma4_text+experts": 64, "deepseek_v4": 16}.get(family, 32)
    assert examine(family).shape == Shape(2, 32, cached, 48, VOCAB, examine(family).shape.masked)


@EVERY
def test_saved_and_read_again_it_is_the_same(family):
    found = examine(family)
    assert found.reloads, (found.saved, found.adapter, found.merged)


@EVERY
def test_the_balance_loss_of_a_router_is_the_models_own(family):
    found = examine(family)
    assert (found.router is not None) == (family in WITH_BALANCE_LOSS)
    assert found.balanced or found.router is None, found.router


def test_the_page_is_current():
    made = runpy.run_path(str(PAGE.with_name("make_models.py")))["page"]()
    assert PAGE.read_text(encoding="utf-8") == made, "write it anew: make docs"


def test_what_comes_with_its_own_code_is_not_in_transformers():
    """Where transformers learns one of them, it moves to FAMILIES."""
    assert not {kind for kind in REMOTE if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
