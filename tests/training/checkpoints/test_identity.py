"""What makes a checkpoint another run's, in the user's words. Whole runs are continued and refused in test_continue.

Does not know checkpoints.
"""

from __future__ import annotations

import pytest

from hone.training.checkpoints.identity import differences

THERE = {"objective": {"stage": "sft", "mask_history": "false"}, "adapter": {"finetuning_type": "lora", "lora_rank": "8"}}


def test_a_setting_that_an_earlier_version_did_not_know_is_no_difference_until_it_asks_for_something():
    newer = {
        **THERE,
        "objective": {**THERE["objective"], "sft_loss": "cross_entropy", "eaft_alpha": "1.0", "ref_model": "left out"},
    }
    assert differences(THERE, newer) == []
    asking = {**newer, "objective": {**newer["objective"], "sft_loss": "dft"}}
    assert differences(THERE, asking) == ["sft_loss: not noted there, dft now"]


def test_settings_that_differ_are_told():
    assert differences(THERE, {**THERE, "adapter": {"finetuning_type": "lora", "lora_rank": "16"}}) == [
        "lora_rank: 8 there, 16 now"
    ]


@pytest.mark.parametrize(
    ("key", "one", "other"), [("precompute_ref", "false", "true"), ("rollout_server", "left out", "http://localhost:8000")]
)
def test_when_or_where_something_is_computed_makes_no_other_run(key, one, other):
    asked = {**THERE, "objective": {**THERE["objective"], key: one}}
    sooner = {**THERE, "objective": {**THERE["objective"], key: other}}
    assert differences(asked, sooner) == differences(sooner, asked) == differences(asked, THERE) == []
