"""Axolotl, by its command line, on rows encoded beforehand. Needs a GPU.

Does not know what is watched.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

from sides import rows
from sides.transformers import encode


def words(job: dict[str, Any]) -> dict[str, Any]:
    """The job in the words of Axolotl's YAML; the setting's own come last."""
    told = {
        "base_model": job["model"], "datasets": [{"path": "rows.jsonl", "ds_type": "json", "type": None}], "val_set_size": 0,
        "output_dir": "out", "sequence_len": job["longest"], "micro_batch_size": job["batch"], "gradient_accumulation_steps": 1,
        "max_steps": job["steps"], "learning_rate": job["learning_rate"], "lr_scheduler": "constant", "seed": 0,
        "optimizer": "adamw_torch_fused", "bf16": True, "sdp_attention": True, "train_on_inputs": False, "logging_steps": 1,
        "save_strategy": "no", "shuffle_merged_datasets": False, "curriculum_sampling": True,
    }  # fmt: skip
    if job["method"] == "lora":
        told |= {"adapter": "lora", "lora_r": job["rank"], "lora_alpha": 2 * job["rank"], "lora_dropout": 0.0}
        told |= {"lora_target_linear": True}
    return told | job["words"]


def train(job: dict[str, Any]) -> None:
    """`axolotl train run.yaml`, in this process; JSON is YAML."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
    encoded = [encode(tokenizer, row, job["longest"]) for row in rows.answered(job)]
    lines = [json.dumps(row | {"attention_mask": [1] * len(row["input_ids"])}) for row in encoded]
    Path("rows.jsonl").write_text("\n".join(lines) + "\n")
    Path("run.yaml").write_text(json.dumps(words(job)))
    sys.argv = ["axolotl.cli.train", "run.yaml"]
    runpy.run_module("axolotl.cli.train", run_name="__main__")
