"""Values and hidden states read inside the model's own forward equal those of the plain one; a reference leaves no trace.

Does not know any objective.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from hone.config.model import ModelConfig
from hone.data.batch import pack
from hone.errors import ModelError
from hone.models.policy import Policy
from hone.models.reference import Reference
from hone.models.value_head import (
    add_value_head,
    find_value_head,
    learned_by,
    load_value_head,
    save_value_head,
    value_head_of,
)
from tests.architectures import sequences
from tests.families import tiny
from tests.worlds import under_ddp


def with_values() -> nn.Module:
    module = tiny("llama")
    add_value_head(module)
    nn.init.normal_(value_head_of(module).summary.bias)
    return module


@pytest.fixture
def valued():
    return with_values()


@pytest.mark.parametrize("fast", [True, False])
def test_values_are_the_heads_of_the_last_hidden_state(valued, fast):
    policy, batch = Policy(valued), pack(sequences())
    policy.fast = fast
    hidden = valued.model(input_ids=batch.ids_BT, position_ids=batch.positions_BT, use_cache=False).last_hidden_state
    wanted = (hidden @ valued.v_head.summary.weight.T).squeeze(-1) + valued.v_head.summary.bias
    assert torch.allclose(policy.values(batch), wanted, atol=1e-6)
    logprobs, values = policy.logprobs_and_values(batch)
    assert torch.allclose(values, wanted, atol=1e-6)
    assert torch.allclose(logprobs, policy.token_logprobs(batch), atol=1e-6)
    where = batch.labels_BT != -100
    assert torch.allclose(policy.scores(batch, where), wanted[where], atol=1e-6)
    assert torch.allclose(policy.hidden(batch, where), hidden[where], atol=1e-6)


def inside_ddp() -> None:
    valued = with_values()
    policy, batch = Policy(nn.parallel.DistributedDataParallel(valued)), pack(sequences())
    logprobs, values = policy.logprobs_and_values(batch)
    (logprobs.sum() + values.square().sum()).backward()
    assert all(weight.grad is not None for weight in valued.parameters())
    assert valued.v_head.summary.weight.grad.any()


def test_ddp_sees_the_value_heads_gradient(tmp_path):
    under_ddp(inside_ddp, tmp_path / "said")


def test_a_value_head_is_saved_and_read_back(valued, tmp_path):
    save_value_head(value_head_of(valued), tmp_path, "reward")
    file, other = tmp_path / "value_head.safetensors", tiny("llama")
    assert learned_by(file) == "reward"
    add_value_head(other, file)
    assert torch.equal(other.v_head.summary.weight, valued.v_head.summary.weight)
    wider = tiny("llama", hidden_size=64)
    with pytest.raises(ModelError, match=r"v_head.summary.weight has shape \(1, 32\), wanted \(1, 64\)"):
        add_value_head(wider, file)
    file.write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load_value_head(other, file)


def test_a_value_head_of_the_older_form_is_read_and_code_in_it_is_not_run(valued, tmp_path):
    file, other = tmp_path / "value_head.bin", tiny("llama")
    torch.save({f"v_head.{name}": tensor for name, tensor in valued.v_head.state_dict().items()}, file)
    assert find_value_head(ModelConfig(model_name_or_path=str(tmp_path))) == file
    add_value_head(other, file)
    assert torch.equal(other.v_head.summary.weight, valued.v_head.summary.weight)
    assert learned_by(file) == ""
    torch.save({"v_head.summary.weight": pytest.raises}, file)
    with pytest.raises(ModelError, match="cannot be read"):
        load_value_head(other, file)


def test_the_head_of_the_last_adapter_comes_before_the_models(valued, tmp_path):
    folders = [tmp_path / name for name in ("base", "first", "last")]
    for folder in folders:
        folder.mkdir()
    base, first, last = folders
    model = ModelConfig(model_name_or_path=str(base))
    assert find_value_head(model, [first, last]) is None
    for folder in (base, first):
        save_value_head(valued.v_head, folder, "reward")
    assert find_value_head(model, [last]) == base / "value_head.safetensors"
    assert find_value_head(model, [first, last]) == first / "value_head.safetensors"


def test_a_reference_has_no_gradient_no_dropout_and_leaves_modes_alone():
    module = tiny("llama", attention_dropout=0.5).train()
    module.model.layers[1].eval()
    policy, batch = Policy(module), pack(sequences())
    switched = []

    @contextmanager
    def off():
        switched.append("off")
        yield
        switched.append("on")

    reference = Reference(policy, off)
    first, second = reference.token_logprobs(batch), reference.token_logprobs(batch)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert switched == ["off", "on"] * 2
    assert module.training
    assert not module.model.layers[1].training
