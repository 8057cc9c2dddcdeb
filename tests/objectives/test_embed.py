"""InfoNCE by hand, whichever way the texts of a micro-batch are laid out; texts are encoded as their tokenizer does by itself.

Does not train.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hone.chat.codec import build_codec
from hone.chat.encoded import IGNORE, Encoded, Example
from hone.config.chat import ChatConfig
from hone.config.objective import Embed as EmbedConfig
from hone.data.batch import pack, pad
from hone.data.order import Steps
from hone.data.sample import Match
from hone.errors import ModelError
from hone.models.policy import Policy
from hone.models.pooling import pooled
from hone.objectives.embed import Embed, info_nce
from tests.families import tiny


def test_the_loss_is_the_log_softmax_of_the_own_candidate():
    queries = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    candidates = torch.tensor([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    losses_E, cosines_EC = info_nce(queries, candidates, torch.tensor([0, 1]), 0.5)
    assert cosines_EC.tolist() == [[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]
    wanted = [math.log(math.exp(2) + 1 + math.exp(-2)) - 2, math.log(1 + math.exp(2) + 1) - 2]
    assert losses_E.tolist() == pytest.approx(wanted, rel=1e-6)


def sequence(*ids: int) -> Encoded:
    array = np.array(ids, np.int32)
    return Encoded(array, np.full_like(array, IGNORE))


ROWS = [
    Example((sequence(5, 6, 7), sequence(5, 9), sequence(11, 12, 13, 14))),
    Example((sequence(3, 4), sequence(3, 8, 10))),
]
OWN = [0, 2]  # of the candidates: positive, negative, positive


def alone(module: torch.nn.Module, pooling: str) -> list[torch.Tensor]:
    """The vector of every sequence, each read by itself."""
    hidden = [
        module.model(input_ids=torch.tensor([one.ids.tolist()])).last_hidden_state[0] for row in ROWS for one in row.sequences
    ]
    return [one[-1] if pooling == "last" else one.mean(0) for one in hidden]


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("layout", [pack, lambda rows: pad(rows, 0)])
def test_vectors_are_those_of_the_texts_alone(pooling, layout):
    module = tiny("llama").eval()
    objective = Embed(EmbedConfig(embed_pooling=pooling))
    with torch.no_grad():
        first, positive, negative, second, other = alone(module, pooling)
        vectors_SD = pooled(Policy(module), layout(ROWS), pooling)
        assert torch.allclose(vectors_SD, torch.stack([first, positive, negative, second, other]), atol=1e-5)
        found = objective.loss(Policy(module), layout(ROWS))
        queries, candidates = torch.stack([first, second]), torch.stack([positive, negative, other])
        losses_E, cosines_EC = info_nce(queries, candidates, torch.tensor(OWN), 0.05)
    assert float(found.total) == pytest.approx(float(losses_E.sum()), abs=1e-4)
    ranks = [1 + sum(row > row[own]).item() for row, own in zip(cosines_EC, OWN, strict=True)]
    assert float(found.metrics["mrr"][0]) == pytest.approx(sum(1 / rank for rank in ranks))
    assert float(found.metrics["accuracy"][0]) == ranks.count(1)
    assert found.metrics["accuracy"][1] == objective.count(layout(ROWS)) == 2


def test_matryoshka_is_the_weighed_sum_of_the_losses_of_the_beginnings():
    module = tiny("llama").eval()
    policy, batch = Policy(module), pack(ROWS)
    with torch.no_grad():
        found = Embed(EmbedConfig(matryoshka_dims=(8, 32), matryoshka_weights=(0.5, 2.0))).loss(policy, batch)
        whole = pooled(policy, batch, "last")
        candidates = whole[[1, 2, 4]]
        parts = [info_nce(whole[[0, 3], :width], candidates[:, :width], torch.tensor(OWN), 0.05)[0].sum() for width in (8, 32)]
        assert float(found.total) == pytest.approx(float(0.5 * parts[0] + 2 * parts[1]), abs=1e-4)
        with pytest.raises(ModelError, match="matryoshka_dims: saw 64, and the model's vectors have 32 numbers"):
            Embed(EmbedConfig(matryoshka_dims=(64,))).loss(policy, batch)


def test_texts_are_encoded_as_the_tokenizer_does(tiny_tokenizer):
    codec = build_codec(ChatConfig(template="empty"), tiny_tokenizer)
    objective = Embed(EmbedConfig(embed_query_prompt="Query: "))
    row = Match("Where is it?", ("Here.", "There."), ("Nowhere.",))
    samples = objective.examples(row, codec)
    assert samples == [Match("Where is it?", (text,), ("Nowhere.",)) for text in ("Here.", "There.")]
    (example,) = objective.encode(samples[:1], codec)
    texts = ["Query: Where is it?", "Here.", "Nowhere."]
    assert [one.ids.tolist() for one in example.sequences] == [tiny_tokenizer(text)["input_ids"] for text in texts]


def test_micro_batches_are_the_same_on_any_number_of_processes():
    lengths = np.random.default_rng(0).integers(3, 40, 22)
    made = []
    for world in (1, 2, 4):
        steps = Steps(lengths, per_step=8, micro=2, world=world, seed=1, fixed=True)
        all_steps = [steps.step(0, index) for index in range(steps.num_steps_per_epoch)]
        assert all(ranks[0] for ranks in all_steps)
        made.append([sorted(batch for rank in ranks for batch in rank) for ranks in all_steps])
    assert made[0] == made[1] == made[2]
    assert sorted(row for step in made[0] for batch in step for row in batch) == list(range(22))
