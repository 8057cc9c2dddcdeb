"""A batch tells the sequences of its examples apart, packed and padded alike, and carries what is given beside them.

Does not know where examples come from.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hone.chat.encoded import Encoded, Example
from hone.data.batch import Batch, pack, pad


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
