"""What a run's folder says of itself on the card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hone.models.card import read_run


@pytest.mark.parametrize(
    ("told", "written", "said"),
    [
        ({"lora_rank": 8, "lora_alpha": None}, None, "rank 8, alpha 16"),
        ({"lora_rank": 8, "lora_alpha": 5}, None, "rank 8, alpha 5"),
        ({"lora_rank": 8, "lora_alpha": None}, {"r": 2, "lora_alpha": 7}, "rank 2, alpha 7"),  # one trained further
        ({"lora_rank": 8, "lora_alpha": None, "pissa_init": True}, {"r": 16, "lora_alpha": 32}, "rank 8, alpha 16"),
    ],
)
def test_rank_and_alpha_are_those_of_the_adapter(told, written, said, tmp_path: Path) -> None:
    run = {
        "objective": {"kind": "sft"}, "adapter": {"kind": "lora", **told}, "optimizer": {}, "data": {"dataset": []},
        "chat": {"template": "qwen"},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    if written:
        (tmp_path / "adapter_config.json").write_text(json.dumps(written))
    assert read_run(tmp_path).lines[0] == f"trained by supervised fine-tuning, lora, {said}"
