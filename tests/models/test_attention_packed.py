"""Packed rows whose sequences attend each by itself are what they are under a mask, for every architecture, and make none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from hone.adapters.apply import attach
from hone.config.adapter import Lora
from hone.config.model import ModelConfig
from hone.data.batch import pack, pad, share
from hone.kernels.packed_attention import Layout, end_to_end
from hone.models import attention_packed
from hone.models.attention_packed import keep_own, laid_out, layout_of, why_own
from hone.models.checkpointing import recompute_activations
from hone.models.load import load_model
from hone.models.policy import Policy
from hone.models.quirks import EAGER_FAMILIES, PADDED_ONLY
from hone.models.shape import meta_model, shape_of
from tests.architectures import gradients, pairs, sequences
from tests.families import FAMILIES, tiny
from tests.models.test_architectures import MASKED

LENGTHS = (13, 1, 7, 24, 2)
DROPOUTS = ("p", "attention_dropout", "residual_dropout", "router_jitter_noise", "input_jitter_noise")


@pytest.fixture
def masks(monkeypatch) -> list[int]:
    """The numbers of tokens for which transformers was asked for a mask and gave one."""
    made: list[int] = []

    def noted(form):
        def make(**asked):
            mask = attention_packed._mask(form, **asked)
            if isinstance(mask, torch.Tensor):
                made.append(mask.shape[-1])
            return mask

        return make

    for name, form in (("sdpa", sdpa_mask), (attention_packed.EAGER, eager_mask)):
        monkeypatch.setitem(AttentionMaskInterface._global_mapping, name, noted(form))
    return made


def still(module: nn.Module) -> nn.Module:
    """In training, with nothing drawn."""
    for inner in module.modules():
        for name in DROPOUTS:
            if isinstance(getattr(inner, name, None), float):
                setattr(inner, name, 0.0)
    return module.train()


def found_of(policy: Policy, batch, *, by_sequence: bool):
    """The summed log-prob and its gradients."""
    policy.by_sequence = by_sequence
    total = policy.token_logprobs(batch).sum()
    return total.item(), gradients(policy.module, total)


def gap(ours, wanted) -> tuple[float, float]:
    """Of the value, as a part of it, and of the largest gradient, as a part of that."""
    assert set(ours[1]) == set(wanted[1])
    largest = max(gradient.abs().max().item() for gradient in wanted[1].values())
    apart = max((ours[1][name].float() - gradient).abs().max().item() for name, gradient in wanted[1].items())
    return abs(ours[0] / wanted[0] - 1), apart / largest


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(PADDED_ONLY) - MASKED))
def test_value_and_gradient_are_those_under_a_mask(family, masks):
    """In fp32 with layers computed again, and in bf16, where both are as far from fp32."""
    module = still(tiny(family))
    policy, batch = Policy(module, 0.0), pack(sequences(LENGTHS))
    wanted = found_of(policy, batch, by_sequence=False)
    assert set(masks) == {sum(LENGTHS)}
    masks.clear()
    recompute_activations(module)
    value, gradient = gap(found_of(policy, batch, by_sequence=True), wanted)
    assert not masks
    assert value < 1e-6 and gradient < 3e-6  # sums in fp32 in another order
    module.bfloat16()
    masked = gap(found_of(policy, batch, by_sequence=False), wanted)
    ours = gap(found_of(policy, batch, by_sequence=True), wanted)
    assert ours[0] < 2 * masked[0] + 1e-3 and ours[1] < 2 * masked[1] + 0.01, (ours, masked)


def test_a_row_lies_as_its_segments_say():
    batch = share(pairs())
    layout = layout_of(batch.segments_BT, batch.positions_BT)
    # prompts of 5, 1 and 3, of which the last token goes on with each answer: (4, 6), (5, 3), (7, 2)
    assert layout == Layout(lengths=(4 + 5, 7, 6, 4, 2 + 8, 3), given=(0, 4, 0, 0, 0, 2), givers=(0, 0, 2, 3, 4, 4))
    packed = pack(sequences(LENGTHS))
    assert layout_of(packed.segments_BT, packed.positions_BT) == end_to_end(list(LENGTHS))


@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_what_pairs_begin_with_takes_no_mask_either(family, masks):
    policy = Policy(tiny(family), 0.0)
    wanted = found_of(policy, share(pairs()), by_sequence=False)
    masks.clear()
    value, gradient = gap(found_of(policy, share(pairs()), by_sequence=True), wanted)
    assert value < 1e-6 and gradient < 3e-6 and not masks


def test_under_autocast_and_an_adapter(masks):
    module = attach(tiny("qwen3"), Lora(), base_name="tiny").train()
    for name, weight in module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    recompute_activations(module)
    policy, batch = Policy(module), pack(sequences(LENGTHS))
    exact = found_of(policy, batch, by_sequence=False)
    with torch.autocast("cpu", torch.bfloat16):
        masked = gap(found_of(policy, batch, by_sequence=False), exact)
        masks.clear()
        ours = gap(found_of(policy, batch, by_sequence=True), exact)
    assert ours[1] < 2 * masked[1] + 0.01 and not masks, (ours, masked)


def test_all_else_is_left_to_transformers(masks):
    """Padded rows, a row of one sequence, answers drawn with a cache: also while a row is laid out."""
    plain, ours = tiny("llama", attn_implementation="eager"), tiny("llama")
    with torch.no_grad(), laid_out(end_to_end([3, 4])):
        for ids in (torch.arange(3, 20)[None], torch.arange(3, 9).view(2, 3)):
            assert torch.allclose(ours(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-5)
        prompt = torch.arange(3, 8)[None]
        drawn = [model.generate(prompt, max_new_tokens=6, do_sample=False) for model in (ours, plain)]
    assert torch.equal(*drawn)
    policy = Policy(ours)
    with torch.no_grad():
        padded, one = pad(sequences((5, 9)), 0), pack(sequences((9,)))
        assert torch.allclose(policy.token_logprobs(padded), Policy(plain).token_logprobs(padded), atol=1e-5)
        masks.clear()
        assert torch.allclose(policy.token_logprobs(one), Policy(plain).token_logprobs(one), atol=1e-5) and not masks


@pytest.mark.parametrize(
    ("asked", "kind", "by_sequence"), [("auto", "sdpa", True), ("sdpa", "sdpa", False), ("disabled", "eager", False)]
)
def test_what_the_user_chose_stays(asked, kind, by_sequence, tiny_model_dir, capsys):
    config = ModelConfig(model_name_or_path=str(tiny_model_dir), flash_attn=asked)
    module = load_model(config, dtype=torch.float32, device=torch.device("cpu"), for_training=False)
    policy = Policy(module)
    policy.self_test()
    assert module.config._attn_implementation == kind and policy.by_sequence == by_sequence and policy.can_pack
    assert shape_of(meta_model(config)).masked == (not by_sequence), "the plan counts the mask"
    assert by_sequence == (not why_own(module)) == ("mask of all tokens by all" not in capsys.readouterr().err)


def test_a_forward_that_reads_its_mask_gets_one(monkeypatch, capsys):
    """Of a family that is not known for it."""
    monkeypatch.setattr(attention_packed, "READS_MASK", {})
    policy = Policy(tiny("deepseek_v32"))
    policy.self_test()
    assert policy.can_pack and not policy.by_sequence
    assert "its forward reads no row without one" in capsys.readouterr().err


def test_families_that_read_their_mask_are_known(capsys):
    policy = Policy(tiny("falcon"))
    policy.self_test()
    assert policy.can_pack and not policy.by_sequence
    assert "its attention is code of its own" in capsys.readouterr().err


def test_one_long_sequence_forms_no_mask_for_its_window_either(masks):
    policy, batch = Policy(tiny("mistral", sliding_window=4)), pack(sequences((30,)))
    wanted = found_of(policy, batch, by_sequence=False)
    assert set(masks) == {30}
    masks.clear()
    value, gradient = gap(found_of(policy, batch, by_sequence=True), wanted)
    assert value < 1e-6 and gradient < 3e-6 and not masks


def test_a_layer_that_wants_more_of_its_scores_gets_a_mask(capsys):
    layout, draw = end_to_end([3, 4]), torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 7, 4, generator=draw) for _ in range(3))
    more = {"position_bias": torch.randn(1, 2, 7, 7, generator=draw), "scaling": 0.5}
    module = SimpleNamespace(is_causal=True)
    ours, _ = attention_packed._attend(module, query, key, value, layout, **more)
    mask = layout.sees(query.device)[None, None]
    assert torch.equal(ours, sdpa_attention_forward(module, query, key, value, mask, **more)[0])
    assert "position_bias" in capsys.readouterr().err


def test_a_reach_that_is_neither_window_nor_block_gets_a_mask(masks, capsys):
    mask_of = AttentionMaskInterface._global_mapping["sdpa"]
    asked = {"batch_size": 1, "q_length": 7, "kv_length": 7, "config": SimpleNamespace(model_type="new", sliding_window=2)}
    with laid_out(end_to_end([3, 4])):
        assert mask_of(**asked, local_size=2) == end_to_end([3, 4]).within(2)
        assert mask_of(**asked, local_size=4) == end_to_end([3, 4]) and not masks
        assert mask_of(**asked, local_size=3, allow_is_causal_skip=False).shape == (1, 1, 7, 7)
        assert mask_of(**asked, use_vmap=True, allow_is_causal_skip=False).shape == (1, 1, 7, 7)
    assert "layers of new that see 3 tokens" in capsys.readouterr().err


@pytest.mark.parametrize("family", EAGER_FAMILIES)
def test_eager_attention_that_the_user_chose_stays(family):
    ours, kept = tiny(family), tiny(family)
    keep_own(kept)
    prompt = torch.arange(3, 12)[None]
    assert Policy(ours).by_sequence and not Policy(kept).by_sequence
    assert (ours.config._attn_implementation, kept.config._attn_implementation) == (attention_packed.EAGER, "eager")
    drawn = [model.generate(prompt, max_new_tokens=4, do_sample=False) for model in (ours, kept)]
    assert torch.equal(*drawn)
