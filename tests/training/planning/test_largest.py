"""The micro-batch that a plan rehearses is laid out as training lays it, and says how a mean one compares with it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hone.chat.encoded import IGNORE, Encoded, Example
from hone.config import load
from hone.config.objective import Kto
from hone.objectives.build import build_objective
from hone.objectives.onpolicy import OnPolicy
from hone.training.planning.draft import gather_material
from hone.training.planning.forecast import forecast
from hone.training.planning.largest import find_largest, laid
from tests.runs import WORDS, write_run

SFT = SimpleNamespace(unit="sequences")


class Set(list):
    """Examples with their lengths, as a TokenSet has them."""

    def __init__(self, examples: list[Example]):
        super().__init__(examples)
        self.lengths = np.array([len(one) for one in examples])
        self.trained = np.array([one.num_trained for one in examples])
        self.join = None


def answered(prompt: int, *answers: int, first: int = 1) -> Example:
    """Answers to one prompt, no two tokens of which are alike from the first on."""
    sequences = []
    for number, answer in enumerate(answers):
        ids = np.concatenate([np.arange(prompt), 1000 * (number + first) + np.arange(answer)]).astype(np.int32)
        sequences.append(Encoded(ids, np.where(np.arange(len(ids)) < prompt, IGNORE, ids).astype(np.int32)))
    return Example(tuple(sequences))


def settings(*, micro: int, packing: bool = False, cutoff: int = 50, kind: str = "sft") -> SimpleNamespace:
    return SimpleNamespace(
        train=SimpleNamespace(per_device_train_batch_size=micro),
        data=SimpleNamespace(packing=packing, cutoff_len=cutoff),
        objective=SimpleNamespace(kind=kind),
    )


def test_of_pairs_that_share_their_prompt_the_one_with_the_longest_answers_takes_most():
    pairs = Set([answered(40, 3, 5), answered(4, 20, 30)])
    assert list(pairs.lengths) == [88, 58] and [laid(one) for one in pairs] == [49, 55]
    found = find_largest(settings(micro=1), SFT, pairs, longest=88, packing="shared", by_sequence=True)
    assert found.batch.ids_BT.numel() == 55
    assert found.tokens == pytest.approx(73 / 58)
    apart = find_largest(settings(micro=1), SFT, pairs, longest=88, packing="packed", by_sequence=True)
    assert apart.batch.ids_BT.numel() == 88


class Drawing(OnPolicy):
    """What a plan asks of an objective that learns from its own answers."""

    def __init__(self, share: float):
        self.share = share


Drawing.__abstractmethods__ = frozenset()


@pytest.mark.parametrize(("share", "learned"), [(1.0, 6), (0.5, 9)])
def test_of_an_answer_that_is_drawn_what_is_new_is_learned(share, learned):
    """Six tokens are drawn to each prompt; a row's own nine are learned from only where some prompts are not answered."""
    rows, run = Set([answered(20, 9), answered(4, 3)]), settings(micro=2)
    run.generate = SimpleNamespace(max_new_tokens=6)
    found = find_largest(run, Drawing(share), rows, longest=29, packing="packed", by_sequence=True)
    assert found.batch.ids_BT.numel() == 2 * 29 and found.batch.num_trained == 2 * learned


def test_the_answers_that_learn_are_looked_for_where_others_are_only_looked_at():
    """The second row's own answer is the longer one, though with what it is held against it is the shorter row."""
    rows = Set([answered(5, 10, 40), answered(5, 20, 4)])
    rows.join = answered
    kto = build_objective(Kto())
    found = find_largest(settings(micro=1), kto, rows, longest=60, packing="packed", by_sequence=True)
    assert kto.learned(found.batch).ids_BT.numel() == 25


def test_a_filled_row_holds_the_longest_that_fit_each_by_itself():
    rows = Set([answered(2, length - 2) for length in (30, 8, 45, 12, 9)])
    found = find_largest(settings(micro=1, packing=True), SFT, rows, longest=45, packing="packed", by_sequence=True)
    assert [int(one) + 1 for one in found.batch.positions_BT[found.batch.ends_BT]] == [45]
    two = find_largest(settings(micro=2, packing=True), SFT, rows, longest=45, packing="packed", by_sequence=True)
    assert [int(one) + 1 for one in two.batch.positions_BT[two.batch.ends_BT]] == [45, 30, 12, 8]
    assert two.tokens == 1.0
    squares, tokens = 30**2 + 8**2 + 45**2 + 12**2 + 9**2, 30 + 8 + 45 + 12 + 9
    longest, held = 45**2 + 30**2 + 12**2 + 8**2, 45 + 30 + 12 + 8
    assert two.seen == pytest.approx(squares / tokens / (longest / held))
    masked = find_largest(settings(micro=2, packing=True), SFT, rows, longest=45, packing="packed", by_sequence=False)
    assert masked.seen == 1.0


def test_attention_of_a_mean_batch_goes_by_the_squares_of_its_lengths():
    rows = Set([answered(2, 8), answered(2, 18)])
    found = find_largest(settings(micro=1), SFT, rows, longest=20, packing="packed", by_sequence=True)
    assert (found.tokens, found.seen) == (15 / 20, pytest.approx((10**2 + 20**2) / 2 / 20**2))
    whole = find_largest(settings(micro=1), SFT, rows, longest=20, packing="packed", by_sequence=False)
    assert whole.seen == pytest.approx((15 / 20) ** 2)


def test_the_plan_counts_a_prompt_that_is_shared_once(tiny_run, tmp_path):
    """So that long prompts with short answers take little more than half."""
    rows = [{"instruction": " ".join(WORDS * 3), "chosen": "five rivers", "rejected": "a dog"}] * 8
    (tmp_path / "data" / "pairs.json").write_text(json.dumps(rows))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    entry = {"file_name": "pairs.json", "ranking": True, "columns": columns}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps({"rows": entry}))
    run = load([str(write_run({**tiny_run, "stage": "dpo", "packing": False}, tmp_path / "run.yaml"))], "train")
    material = gather_material(run)

    def activations(objective) -> int:
        found = forecast(run, objective, material.tokens, "kept", device=torch.device("cpu"), world=1)
        return found.memory.activations

    class Apart(type(material.objective)):
        sample = object

    shared, apart = activations(build_objective(run.objective)), activations(Apart(run.objective))
    assert 0.5 < shared / apart < 0.7
