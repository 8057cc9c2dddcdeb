"""Rollouts by the trained module: repeatable draw by draw, with the log-probs of a plain forward, and nothing is left changed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tests.families import tiny
from transformers import AutoModelForCausalLM, GenerationConfig

from hone.inference.embedded import EmbeddedSampler
from hone.inference.rollout import Prompt, Sampling, seed_of
from hone.models.checkpointing import recompute_activations

PROMPTS = [Prompt(np.array(ids, np.int32), seed) for seed, ids in enumerate([[1, 40, 50, 60, 70], [1, 9], [3, 4, 5], [1, 9]])]
SAMPLING = Sampling(num_new=12, stop_ids=(4,), pad_id=0)


@pytest.fixture
def module(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)


def plain(module, prompt: Prompt, ids: np.ndarray) -> torch.Tensor:
    """Logits before each drawn token by one forward without padding or a cache, [N, V]."""
    whole = torch.tensor([[*prompt.ids, *ids]])
    with torch.no_grad():
        return module.eval()(input_ids=whole).logits[0, len(prompt.ids) - 1 : -1]


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.6, 1.0, 0), (1.3, 0.8, 0), (1.0, 1.0, 5)])
def test_logprobs_are_those_of_a_plain_forward(module, temperature: float, top_p: float, top_k: int) -> None:
    sampling = Sampling(12, (4,), 0, temperature, top_p, top_k)
    for prompt, drawn in zip(PROMPTS, EmbeddedSampler(module).draw(PROMPTS, sampling), strict=True):
        logprobs = torch.log_softmax(plain(module, prompt, drawn.ids) / temperature, -1)
        at = torch.arange(len(drawn.ids)), torch.tensor(drawn.ids.astype(np.int64))
        np.testing.assert_allclose(drawn.logprobs, logprobs[at], atol=1e-4)  # a cache and padding sum in another order
        np.testing.assert_allclose(drawn.entropies, -(logprobs.exp() * logprobs).sum(-1), atol=1e-4)
        inside = [
            logprobs[t].sort(descending=True).values.exp().cumsum(0) for t in range(len(drawn.ids))
        ]  # mass of the tokens that top_p or top_k leave
        for t, mass in enumerate(inside):
            kept = 1.0
            if top_p < 1:
                kept = float(mass[int((mass < top_p).sum())])
            elif top_k:
                kept = float(mass[top_k - 1])
            assert drawn.drawn_logprobs[t] == pytest.approx(float(logprobs[at][t]) - np.log(kept), abs=1e-4)


def test_a_draw_does_not_depend_on_its_neighbours(module) -> None:
    together = EmbeddedSampler(module).draw(PROMPTS, SAMPLING)
    apart = [EmbeddedSampler(module).draw([prompt], SAMPLING)[0] for prompt in PROMPTS]
    in_twos = EmbeddedSampler(module, batch_size=2).draw(PROMPTS[::-1], SAMPLING)[::-1]
    for one, two, three in zip(together, apart, in_twos, strict=True):
        assert one.ids.tolist() == two.ids.tolist() == three.ids.tolist()
    assert together[1].ids.tolist() != together[3].ids.tolist(), "another seed draws otherwise"


def test_experts_whose_config_learns_a_balance_draw_and_keep_it() -> None:
    experts = tiny("mixtral").float()
    assert experts.config.output_router_logits
    both = EmbeddedSampler(experts).draw(PROMPTS[:2], SAMPLING)
    assert [one.ids.tolist() for one in both] == [
        EmbeddedSampler(experts).draw([one], SAMPLING)[0].ids.tolist() for one in PROMPTS[:2]
    ]
    assert experts.config.output_router_logits


def test_tokens_are_drawn_by_their_probability(module) -> None:
    """3000 draws of one token of 5: each share within 4 standard deviations of its probability."""
    sampling = Sampling(1, (), 0, top_k=5)
    prompts = [Prompt(PROMPTS[0].ids, seed_of(7, number)) for number in range(3000)]
    drawn = EmbeddedSampler(module, batch_size=500).draw(prompts, sampling)
    counts = Counter(int(one.ids[0]) for one in drawn)
    probabilities = torch.softmax(plain(module, PROMPTS[0], np.array([0]))[0].topk(5).values, 0)
    for token, probability in zip(
        plain(module, PROMPTS[0], np.array([0]))[0].topk(5).indices.tolist(), probabilities, strict=True
    ):
        deviation = float((3000 * probability * (1 - probability)) ** 0.5)
        assert abs(counts[token] - 3000 * float(probability)) < 4 * deviation
    assert sum(counts.values()) == 3000 and len(counts) == 5


def test_an_answer_ends_with_its_stop_token(parrot) -> None:
    parrot.script, parrot.after = (50, 51, 4, 52), 5
    (finished,) = EmbeddedSampler(parrot).draw(PROMPTS[:1], SAMPLING)
    assert finished.ids.tolist() == [50, 51, 4] and finished.finished and len(finished.logprobs) == 3
    parrot.script = (50, 51)
    (cut,) = EmbeddedSampler(parrot).draw(PROMPTS[:1], SAMPLING)
    assert len(cut.ids) == 12 and not cut.finished


def test_dropout_is_off_while_it_draws_and_all_is_put_back(module) -> None:
    """With recomputed activations too, which refuse a cache in training mode."""
    expected = EmbeddedSampler(module).draw(PROMPTS, SAMPLING)
    module.train()
    recompute_activations(module)
    module.lm_head.eval()
    module.config.use_cache, module.generation_config = False, GenerationConfig(temperature=0.1, do_sample=True)
    for layer in module.model.layers:
        layer.self_attn.attention_dropout = 0.5
    state = torch.get_rng_state()
    found = EmbeddedSampler(module).draw(PROMPTS, SAMPLING)
    assert [one.ids.tolist() for one in found] == [one.ids.tolist() for one in expected]
    assert module.model.training and not module.lm_head.training and module.config.use_cache is False
    assert module.generation_config.temperature == 0.1 and torch.equal(torch.get_rng_state(), state)


def test_an_error_puts_the_modes_back_too(module) -> None:
    module.train()
    with pytest.raises(IndexError):
        EmbeddedSampler(module).draw([Prompt(np.array([1, 999999], np.int32), 0)], SAMPLING)
    assert module.training


def test_seeds_differ_and_repeat() -> None:
    seeds = {seed_of(7, step, row, number) for step in range(5) for row in range(5) for number in range(5)}
    assert len(seeds) == 125 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(7, 1, 2, 3) == seed_of(7, 1, 2, 3)
