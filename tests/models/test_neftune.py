"""NEFTune's noise has the paper's bound for each sequence, in training alone."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from hone.models.neftune import add_noise, sequence_lengths
from hone.models.policy import Policy


def test_lengths_of_packed_sequences():
    assert sequence_lengths(torch.tensor([[0, 1, 2, 0, 1, 0]])).tolist() == [[3, 3, 3, 2, 2, 1]]


def test_noise_is_bounded_by_each_sequence_s_own_length(tiny_model_dir):
    policy = Policy(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    embeddings, seen = policy.causal.get_input_embeddings(), []
    add_noise(policy, 5.0)
    embeddings.register_forward_hook(lambda module, _, output: seen.append(output.detach().clone()))
    ids_BT, positions_BT = torch.arange(1, 101).unsqueeze(0), torch.cat([torch.arange(4), torch.arange(96)]).unsqueeze(0)
    clean_BTD = torch.nn.functional.embedding(ids_BT, embeddings.weight)
    policy.module.train()
    policy.module(input_ids=ids_BT, position_ids=positions_BT, use_cache=False)
    moved_BTD = (seen.pop() - clean_BTD).abs()
    width = clean_BTD.shape[-1]
    for part, length in ((moved_BTD[:, :4], 4), (moved_BTD[:, 4:], 96)):
        bound = 5.0 / (length * width) ** 0.5
        assert float(part.max()) <= bound + 1e-6
        assert float(part.mean()) == pytest.approx(bound / 2, rel=0.15)
    policy.module.eval()
    policy.module(input_ids=ids_BT, position_ids=positions_BT, use_cache=False)
    assert torch.equal(seen.pop(), clean_BTD)
