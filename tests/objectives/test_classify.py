"""Classes and numbers by hand, whichever way the texts are laid out, and beside plain transformers; how classes are found.

Does not train.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hone.chat.encoded import IGNORE, Encoded, Example
from hone.config.objective import Classify as ClassifyConfig
from hone.data.batch import pack, pad
from hone.data.columns import RowError
from hone.data.sample import Labelled
from hone.errors import DataError
from hone.models.policy import Policy
from hone.models.pooling import scored
from hone.models.score_head import ScoreHead
from hone.objectives.classify import CLASS, Classes, Numbers, class_name, f1_parts
from tests.families import FAMILIES, tiny

PAD = 0
TEXTS = ([5, 6, 7, 8], [9, 4, PAD], [3, 3, 9, 10, 44], [PAD, 7])
"""The second ends with the token that pads, as the texts of a tokenizer do whose end of text pads too."""


def sequence(ids: list[int]) -> Encoded:
    return Encoded(np.array(ids, np.int32), np.full(len(ids), IGNORE, np.int32))


def classifier(family: str = "llama", num: int = 3) -> torch.nn.Module:
    config = tiny(family).config
    ScoreHead(tuple("abcdef"[:num])).apply(config, PAD)
    torch.manual_seed(1)
    module = AutoModelForSequenceClassification.from_config(config).eval()
    module.score.weight.data.mul_(20)
    return module


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "mistral", "qwen3_moe", "phi3"])
def test_scores_are_those_of_plain_transformers_in_every_layout(family):
    assert family in FAMILIES
    module = classifier(family)
    with torch.no_grad():
        plain = torch.cat([module(input_ids=torch.tensor([ids])).logits for ids in TEXTS])
        padded = pad([sequence(ids) for ids in TEXTS], PAD)
        together = module(input_ids=padded.ids_BT, attention_mask=(padded.segments_BT != 0).long()).logits
        assert plain.std() > 0.1
        assert torch.allclose(together[[0, 2, 3]], plain[[0, 2, 3]], atol=1e-5)
        policy = Policy(module)
        assert policy.self_test().can_pack
        for batch in (padded, pack([sequence(ids) for ids in TEXTS])):
            assert torch.allclose(scored(policy, batch), plain, atol=1e-5)


def batch_of(layout, classes: list[int]):
    rows = [Example((sequence(ids),), value=float(number)) for ids, number in zip(TEXTS, classes, strict=True)]
    aside = {CLASS: [float(number) for number in classes]}
    return pack(rows, aside=aside) if layout == "packed" else pad(rows, PAD, aside=aside)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_loss_is_the_cross_entropy_of_each_text_times_its_weight(layout):
    module, classes = classifier(), [0, 2, 1, 2]
    objective = Classes(ClassifyConfig(), ScoreHead(("a", "b", "c")), (1.0, 2.0, 0.5))
    batch, policy = batch_of(layout, classes), Policy(module)
    with torch.no_grad():
        plain = torch.cat([module(input_ids=torch.tensor([ids])).logits for ids in TEXTS])
        each = [-math.log(float(row.softmax(-1)[number])) for row, number in zip(plain, classes, strict=True)]
        evaluated = objective.loss(policy, batch)
        policy.module.train()
        trained = objective.loss(policy, batch)
    assert float(evaluated.total) == pytest.approx(sum(each), abs=1e-4)
    weights = [1.0, 0.5, 2.0, 0.5]
    assert float(trained.total) == pytest.approx(sum(map(math.prod, zip(each, weights, strict=True))), abs=1e-4)
    hits = sum(int(row.argmax()) == number for row, number in zip(plain, classes, strict=True))
    assert float(trained.metrics["accuracy"][0]) == hits and trained.metrics["accuracy"][1] == objective.count(batch) == 4
    assert set(evaluated.metrics) == set(objective.metrics) and set(trained.metrics) == {"accuracy"}


def test_f1_adds_up_over_batches():
    """Of 7 texts: a is hit twice of 3 and said 3 times, b once of 2 and said 3 times, c of 2 once and said once."""
    said, true = torch.tensor([0, 0, 1, 1, 0, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 2, 2])
    whole = f1_parts(said, true, 4)
    parts = [f1_parts(said[part], true[part], 4) for part in (slice(3), slice(3, 7))]
    assert all(torch.equal(sum(one), every) for one, every in zip(zip(*parts, strict=True), whole, strict=True))
    assert whole[0].tolist() == [4, 2, 2, 0] and whole[1].tolist() == [6, 5, 3, 0]
    objective = Classes(ClassifyConfig(), ScoreHead(("a", "b", "c", "d")))
    told = objective.told({"accuracy": 0.5, "f1/a": 4 / 6, "f1/b": 2 / 5, "f1/c": 2 / 3})  # d counted nothing
    assert told["f1"] == pytest.approx((2 / 3 + 2 / 5 + 2 / 3) / 3) and told["f1/b"] == 0.4
    many = Classes(ClassifyConfig(), ScoreHead(tuple(map(str, range(21)))))
    assert many.told({"accuracy": 1.0, "f1/1": 1.0, "f1/2": 0.0}) == {"accuracy": 1.0, "f1": 0.5}


class _Set:
    """As much of a TokenSet as classes are found in."""

    def __init__(self, notes: list[str]):
        self.notes = notes

    def __len__(self) -> int:
        return len(self.notes)


def names_of(settings: ClassifyConfig, names: tuple[str, ...], found: ScoreHead | None = None) -> tuple[str, ...]:
    return Classes(settings).settled(_Set([f'"{name}"' for name in names]), found).names


def test_classes_are_those_of_the_data_unless_somebody_says_others():
    assert names_of(ClassifyConfig(), ("pear", "Fig", "pear")) == ("Fig", "pear")
    assert names_of(ClassifyConfig(), ("10", "9", "-1")) == ("-1", "9", "10")
    assert names_of(ClassifyConfig(class_names=("z", "a")), ("a",)) == ("z", "a")
    assert names_of(ClassifyConfig(), ("a",), ScoreHead(("z", "a"))) == ("z", "a")
    assert names_of(ClassifyConfig(), ("0", "1"), ScoreHead(("LABEL_0", "LABEL_1"))) == ("0", "1")
    with pytest.raises(DataError, match="class_names: saw a, z, and the model is a classifier of z, a"):
        names_of(ClassifyConfig(class_names=("a", "z")), ("a",), ScoreHead(("z", "a")))
    with pytest.raises(DataError, match="the model's head gives one number a text"):
        names_of(ClassifyConfig(), ("a", "b"), ScoreHead(("number",), "regression"))
    with pytest.raises(DataError, match="label_kind: number, and the model is a classifier of z, a"):
        Numbers().settled(_Set([]), ScoreHead(("z", "a")))


def test_balanced_weights_give_every_class_the_same():
    settled = Classes(ClassifyConfig(class_weights="balanced")).settled(_Set(['"a"'] * 6 + ['"b"'] * 2), None)
    assert settled._weights == (8 / (2 * 6), 8 / (2 * 2))


def test_labels_are_classes_or_numbers():
    assert [class_name(label) for label in (True, 3, "yes")] == ["true", "3", "yes"]
    with pytest.raises(RowError, match="no class"):
        class_name(1.5)
    assert Numbers().examples(Labelled("t", "2.5"), None) == [Labelled("t", 2.5)]
    for label in (True, "many", math.nan):
        with pytest.raises(RowError, match="no number"):
            Numbers().examples(Labelled("t", label), None)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_number_is_learned_by_its_squared_distance(layout):
    module, wanted = classifier(num=1), [0, 2, 1, 2]
    with torch.no_grad():
        found = Numbers().loss(Policy(module), batch_of(layout, wanted))
        away = [float(module(input_ids=torch.tensor([ids])).logits[0, 0]) - one for ids, one in zip(TEXTS, wanted, strict=True)]
    assert float(found.total) == pytest.approx(sum(one * one for one in away), abs=1e-4)
    assert float(found.metrics["mae"][0]) == pytest.approx(sum(map(abs, away)), abs=1e-4)
