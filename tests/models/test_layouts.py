"""What the trials at the start find of a model is what it does, and they leave it as it was; sharing and cutting: elsewhere."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hone.data.batch import pack
from hone.models.policy import Policy
from tests.architectures import sequences
from tests.families import VOCAB, tiny
from tests.models.test_policy import assert_equal


class OwnHead(LlamaForCausalLM):
    """Multiplies by its head's weight itself, as some families' own code does."""

    def forward(self, input_ids=None, labels=None, **inputs):
        hidden = self.model(input_ids=input_ids, **inputs).last_hidden_state
        return type("Output", (), {"logits": hidden @ self.lm_head.weight.T, "loss": hidden.sum()})()


class OtherMap(LlamaForCausalLM):
    """Changes its logits in a way nobody wrote down."""

    def forward(self, input_ids=None, labels=None, **inputs):
        hidden = self.model(input_ids=input_ids, **inputs).last_hidden_state
        logits = self.lm_head(hidden) * 3
        loss = None if labels is None else self.loss_function(logits, labels, VOCAB)
        return type("Output", (), {"logits": logits, "loss": loss})()


@pytest.mark.parametrize(("family", "why"), [(OwnHead, "not called"), (OtherMap, "differ")])
def test_a_forward_that_cannot_be_tapped_is_found_and_still_right(family, why, capsys):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    module = family(config).eval()
    policy = Policy(module)
    found = policy.self_test()
    assert not found.fast
    assert why in found.why
    assert family.__name__ in capsys.readouterr().err
    assert_equal(module, pack(sequences()), sequences(), policy)


def test_self_test_leaves_modes_and_the_module_as_they_were():
    module = tiny("llama").train()
    module.model.layers[0].eval()
    Policy(module).self_test()
    assert module.training
    assert not module.model.layers[0].training
    assert "forward" not in vars(module.lm_head)
    assert "_loss_function" not in vars(module)
