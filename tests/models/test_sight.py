"""What a policy is shown: log-probs of answers about pictures, packed and padded, against transformers' plain forward."""

from __future__ import annotations

import copy

import pytest
import torch

from hone.adapters.apply import attach
from hone.chat.encoded import IGNORE
from hone.chat.message import Conversation, Image, Message, Text, message
from hone.config.adapter import Lora
from hone.data.batch import pack, pad
from hone.errors import ModelError
from hone.models.context import Context
from hone.models.policy import Policy
from tests.architectures import by_peft, gradients
from tests.pictures import FAMILIES, make_codec, picture

SHOWN = [[picture(60, 40)], [picture(100, 100, seed=1), picture(30, 90, seed=2)], []]


def talk(files) -> Conversation:
    parts = [part for file in files for part in (Image(file), Text("see?"))] or [Text("Hi")]
    return Conversation((Message("user", tuple(parts)), message("assistant", "A cat.")))


@pytest.fixture(scope="module", params=list(FAMILIES))
def seeing(request, tmp_path_factory):
    module, codec = make_codec(tmp_path_factory.mktemp(request.param), request.param)
    return module, codec, codec.encode([talk(files) for files in SHOWN])


def plain(module, codec, encoded) -> torch.Tensor:
    """[T]: log-probs of the labels by the model's own forward, which finds places and masks out for itself."""
    ids_1T, labels_T = torch.as_tensor(encoded.ids).long()[None], torch.as_tensor(encoded.labels).long()
    tensors = encoded.shown.tensors()
    if (name := codec.reader.family.types) and tensors:
        tensors[name] = (ids_1T == codec.reader.tokens["image"]).int()
    logprobs_TV = module(input_ids=ids_1T, use_cache=False, **tensors).logits[0].log_softmax(-1)
    found_T = torch.zeros(len(labels_T))
    learned = (labels_T[1:] != IGNORE).nonzero()[:, 0] + 1
    found_T[learned] = logprobs_TV[learned - 1, labels_T[learned]]
    return found_T


def test_log_probs_are_those_of_the_plain_forward_however_they_are_laid_out(seeing):
    module, codec, encoded = seeing
    policy = Policy(module)
    policy.self_test()
    with torch.no_grad():
        wanted = [plain(module, codec, one) for one in encoded]
        padded_BT = policy.token_logprobs(pad(encoded, 0))
        packed_1T = policy.token_logprobs(pack(encoded)) if policy.can_pack else None
    for row, one in enumerate(wanted):  # sums in another order, of log-probs of size 10
        torch.testing.assert_close(padded_BT[row, : len(one)], one, atol=2e-5, rtol=0)
    if packed_1T is not None:
        torch.testing.assert_close(packed_1T[0], torch.cat(wanted), atol=2e-5, rtol=0)


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "LoRA"])
def test_gradients_are_those_of_the_plain_forward(seeing, lora):
    """Of the tower's weights too; with LoRA on every linear layer, beside peft's own layers."""
    module, codec, encoded = seeing
    module = copy.deepcopy(module)
    if lora:
        module = attach(module, Lora(lora_target=("q_proj", "v_proj", "down_proj")), base_name="tiny").eval()
    for name, weight in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    simple, policy = by_peft(module) if lora else module, Policy(module)
    policy.self_test()
    theirs = gradients(simple, torch.stack([plain(simple, codec, one).sum() for one in encoded]).sum())
    for batch in [pad(encoded, 0), *([pack(encoded)] if policy.can_pack else [])]:
        ours = gradients(module, policy.token_logprobs(batch).sum())
        assert set(ours) == set(theirs) and (lora or any("vis" in name for name in ours))
        largest = max(float(gradient.abs().max()) for gradient in theirs.values())
        assert max(float((ours[name] - one).abs().max()) for name, one in theirs.items()) < 1e-4 * largest


def test_pictures_and_their_places_change_the_log_probs(seeing, monkeypatch):
    """Else the comparison above would prove nothing."""
    module, codec, encoded = seeing
    policy, batch = Policy(module), pad(encoded[:2], 0)
    with torch.no_grad():
        seen_BT = policy.token_logprobs(batch)
        darkened = [{name: one * (0 if one.is_floating_point() else 1) for name, one in each.items()} for each in batch.shown]
        dark_BT = policy.token_logprobs(type(batch)(**{**vars(batch), "shown": tuple(darkened)}))
        assert (dark_BT - seen_BT).abs().max() > 1e-2
        if codec.reader.family.folded:
            monkeypatch.setattr(policy._sight, "places", lambda ids, segments, positions, shown: positions)
            assert (policy.token_logprobs(batch) - seen_BT).abs().max() > 1e-3


def test_rows_of_a_model_that_is_shown_pictures_are_not_cut_over_processes(seeing):
    module, *_ = seeing
    policy = Policy(module, shows_media=True)
    policy.self_test()
    with pytest.raises(ModelError, match=r"context_parallel_size: rows of .* cannot be cut over processes"):
        policy.cut_over(Context(None, 2, 0))
