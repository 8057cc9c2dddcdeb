"""A batch tells the sequences of its examples apart, packed and padded alike, and carries what is given beside them.

Does not know where examples come from.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hone.chat.encoded import IGNORE, Encoded, Example
from hone.data.batch import Batch, pack, pad, share


def sequence(length: int) -> Encoded:
    ids = np.arange(1, length + 1, dtype=np.int32)
    return Encoded(ids, ids)


EXAMPLES = [Example((sequence(3), sequence(2)), 1.0), Example((sequence(4),), -2.0)]
ASIDE = {"score": [0.5, 1.5, 2.5], "old": [np.arange(3), np.arange(2), np.arange(4)]}


def laid(layout: str) -> Batch:
    return pack(EXAMPLES, (7, 9), ASIDE) if layout == "packed" else pad(EXAMPLES, 0, (7, 9), ASIDE)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_sums_ends_and_what_lies_beside(layout):
    batch = laid(layout).to(torch.device("cpu"))
    assert batch.parts == (2, 1) and batch.num_sequences == 3 and batch.rows == (7, 9)
    assert batch.values_E.tolist() == [1.0, -2.0]
    assert batch.sums(batch.ids_BT.float()).tolist() == [6.0, 3.0, 10.0]
    assert batch.sums(batch.aside["old"]).tolist() == [3.0, 1.0, 6.0]
    assert batch.ids_BT[batch.ends_BT].tolist() == [3, 2, 4]
    assert batch.aside["score"].tolist() == [0.5, 1.5, 2.5]


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_sums_have_a_gradient(layout):
    batch = laid(layout)
    values_BT = torch.zeros(batch.ids_BT.shape, requires_grad=True)
    (batch.sums(values_BT) * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    wanted = torch.tensor([1.0, 10.0, 100.0])[batch.sequences_BT.clamp(min=0)]
    assert torch.equal(values_BT.grad, torch.where(batch.sequences_BT >= 0, wanted, 0.0))


@pytest.mark.parametrize("lay", ["packed", "padded"])
def test_one_side_of_examples_is_a_batch_of_its_own(lay):
    sides = [(sequence(2), sequence(3)), (sequence(4), sequence(2))]
    both = [Example(pair, value) for pair, value in zip(sides, (1.0, 0.0), strict=True)]
    aside = {"number": [1.0, 2.0, 3.0, 4.0], "each": [np.array(one.ids, np.float32) for pair in sides for one in pair]}

    def laid(examples, aside):
        return pack(examples, [4, 5], aside) if lay == "packed" else pad(examples, 0, [4, 5], aside)

    whole = laid(both, aside).beside({"all": 9.0})
    for side in (0, 1):
        found = whole.side(side)
        alone = laid(
            [Example((one.sequences[side],), one.value) for one in both],
            {"number": aside["number"][side::2], "each": aside["each"][side::2]},
        ).beside({"all": 9.0})
        assert found.parts == alone.parts and found.rows == alone.rows
        for name in ("ids_BT", "labels_BT", "positions_BT", "segments_BT", "values_E"):
            assert torch.equal(getattr(found, name), getattr(alone, name)), name
        assert found.aside.keys() == alone.aside.keys()
        assert all(torch.equal(found.aside[name], alone.aside[name]) for name in alone.aside)


def answers(prompt: list[int], *tails: list[int]) -> Example:
    both = [(prompt + tail, [IGNORE] * len(prompt) + tail) for tail in tails]
    return Example(tuple(Encoded(np.array(ids, np.int32), np.array(labels, np.int32)) for ids, labels in both))


def test_a_prompt_lies_there_once_and_each_answer_begins_with_its_last_token():
    pairs = [answers([1, 2, 3], [7, 8], [7]), answers([1], [4], [5, 6])]
    batch = share(pairs, (3, 4), {"reference": [1.0, 2.0, 3.0, 4.0]})
    assert batch.ids_BT.tolist() == [[1, 2, 3, 7, 8, 3, 7, 1, 4, 1, 5, 6]], "what is learned is never shared"
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 4, 2, 3, 0, 1, 0, 1, 2]]
    assert batch.segments_BT.tolist() == [[-1, -1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 4]]
    assert batch.labels_BT.tolist() == [[-100, -100, -100, 7, 8, -100, 7, -100, 4, -100, 5, 6]]
    assert batch.sequences_BT.tolist() == [[-1, -1, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3]]
    assert batch.ids_BT[batch.ends_BT].tolist() == [8, 7, 4, 6]
    whole = pack(pairs, (3, 4))
    assert batch.num_tokens == whole.num_tokens == 14 and batch.num_trained == whole.num_trained == 6
    counts = [one.sums((one.labels_BT != IGNORE).float()).tolist() for one in (batch, whole)]
    assert counts[0] == counts[1] == [2.0, 1.0, 1.0, 2.0]
    with pytest.raises(AssertionError, match="share a beginning"):
        batch.side(0)
    with pytest.raises(AssertionError, match="numbers of tokens"):
        share(pairs, (), {"old": [np.zeros(len(one)) for pair in pairs for one in pair.sequences]})


def test_sequences_with_nothing_in_common_are_packed():
    pairs = [Example((sequence(3), Encoded(np.array([9, 2], np.int32), np.array([9, 2], np.int32))))]
    for name in ("ids_BT", "labels_BT", "positions_BT", "segments_BT"):
        assert torch.equal(getattr(share(pairs), name), getattr(pack(pairs), name)), name


@pytest.mark.parametrize("layout", ["packed", "padded", "shared"])
def test_halves_are_what_their_examples_are_laid_out_alone(layout):
    """Three examples of 2, 1 and 3 sequences, with numbers beside sequences, tokens (where nothing is shared) and all."""
    whole = [answers([1, 2, 3], [7, 8], [7]), answers([1, 5], [4]), answers([1], [4], [5, 6], [9, 9, 9])]
    whole = [Example(one.sequences, float(number)) for number, one in enumerate(whole)]
    scores = [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    each = [np.full(len(one), number) for number, one in enumerate(one for example in whole for one in example.sequences)]

    def lay(first: int, end: int) -> Batch:
        start, stop = (sum(len(one.sequences) for one in whole[:number]) for number in (first, end))
        aside = {"score": scores[start:stop]} | ({} if layout == "shared" else {"each": each[start:stop]})
        rows = tuple(range(10 + first, 10 + end))
        laid = {"packed": pack, "shared": share, "padded": lambda *some: pad(some[0], 0, *some[1:])}[layout]
        return laid(whole[first:end], rows, aside).beside({"all": 9.0})

    for half, alone in zip(lay(0, 3).halves(), (lay(0, 2), lay(2, 3)), strict=True):
        assert half.parts == alone.parts and half.rows == alone.rows and half.num_tokens == alone.num_tokens
        for name in ("ids_BT", "labels_BT", "positions_BT", "segments_BT", "values_E"):
            assert torch.equal(getattr(half, name), getattr(alone, name)), name
        assert half.aside.keys() == alone.aside.keys()
        assert all(torch.equal(half.aside[name], alone.aside[name]) for name in alone.aside)
