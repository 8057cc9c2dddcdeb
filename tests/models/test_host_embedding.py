"""Embeddings that stay in host memory give what they gave, and are nobody's to move, train or send."""

from __future__ import annotations

import pytest
import torch

from hone.adapters.apply import attach
from hone.config.adapter import Lora
from hone.data.batch import pack
from hone.errors import ModelError
from hone.models.forward import find_causal
from hone.models.host_embedding import hold_in_host
from hone.models.policy import Policy
from tests.architectures import sequences
from tests.families import tiny


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_it_gives_the_same_rows_and_is_not_moved(family):
    module = tiny(family, tie_word_embeddings=False)
    module = attach(module, Lora(lora_rank=4), base_name="tiny")
    causal, batch = find_causal(module), pack(sequences())
    wanted = Policy(module).token_logprobs(batch)
    weight = causal.get_input_embeddings().weight
    hold_in_host(causal, torch.device("cpu"))
    policy = Policy(module)
    assert torch.equal(policy.token_logprobs(batch), wanted)
    policy.self_test()
    assert policy.fast and policy.can_pack
    assert all(one is not weight for one in module.parameters()) and not any("embed_tokens" in key for key in module.state_dict())
    module.to("meta")
    assert causal.get_input_embeddings().weight.device.type == "cpu"
    assert causal.get_input_embeddings().weight.shape == weight.shape


def test_it_is_refused_where_it_is_the_head_or_learns():
    with pytest.raises(ModelError, match="the output head is the embeddings"):
        hold_in_host(tiny("llama", tie_word_embeddings=True).requires_grad_(False), torch.device("cpu"))
    with pytest.raises(ModelError, match="the embeddings learn in this run"):
        hold_in_host(tiny("llama"), torch.device("cpu"))
    adapted = attach(tiny("llama", tie_word_embeddings=False), Lora(lora_rank=4, lora_target=("embed_tokens",)), base_name="tiny")
    with pytest.raises(ModelError, match="the embeddings learn in this run"):
        hold_in_host(find_causal(adapted), torch.device("cpu"))
