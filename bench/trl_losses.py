"""TRL's half of against_trl.py: `python trl_losses.py FOLDER`, in an environment that has TRL.

Knows neither hone nor a formula: TRL's trainers are built with a case's settings, and their own `compute_loss` is called on
batches of their own collators. Reads FOLDER/cases.json and the models beside it, writes FOLDER/trl/losses.json and the gradients
of each case as safetensors.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_OFFLINE="1")

import datasets
import torch
import transformers
import trl
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.utils import pad

Rows = list[dict[str, Any]]
IGNORE = -100
TEXT = {"prompt": ["a b"], "chosen": ["c"], "rejected": ["d"], "completion": ["c"], "label": [True]}
PAIR, ANSWERED, ASKED = ("prompt", "chosen", "rejected"), ("prompt", "completion"), ("prompt",)
COLUMNS = {
    "dpo": PAIR, "orpo": PAIR, "cpo": PAIR, "reward": PAIR[1:], "kto": (*ANSWERED, "label"),
    "sft": ANSWERED, "gkd": ANSWERED, "grpo": ASKED, "rloo": ASKED, "distillation": ASKED,
}  # fmt: skip
TRAINERS: dict[str, tuple[Any, Any]] = {
    "dpo": (trl.DPOTrainer, trl.DPOConfig),
    "orpo": (ORPOTrainer, ORPOConfig),
    "cpo": (CPOTrainer, CPOConfig),
    "kto": (trl.KTOTrainer, trl.KTOConfig),
    "reward": (trl.RewardTrainer, trl.RewardConfig),
    "grpo": (trl.GRPOTrainer, trl.GRPOConfig),
    "sft": (trl.SFTTrainer, trl.SFTConfig),
    "rloo": (trl.RLOOTrainer, trl.RLOOConfig),
    "gkd": (GKDTrainer, GKDConfig),
    "distillation": (trl.DistillationTrainer, trl.DistillationConfig),
}


def load(folder: Path, name: str) -> nn.Module:
    """The causal model FOLDER/name in fp32."""
    return AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32)


def load_classifier(folder: Path) -> nn.Module:
    """FOLDER/policy with FOLDER/score.safetensors in place of its output head."""
    model = AutoModelForSequenceClassification.from_pretrained(folder / "policy", num_labels=1, dtype=torch.float32)
    model.load_state_dict(load_file(folder / "score.safetensors"), strict=False)
    return model


def build_trainer(folder: Path, kind: str, settings: dict[str, Any], num_rows: int, rewards: list[float] | None = None) -> Any:
    """TRL's trainer of `kind`; its own data set is text that is never used. rewards: what its reward function gives."""
    trainer, config = TRAINERS[kind]
    args = config(
        output_dir=tempfile.mkdtemp(dir=folder), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        per_device_train_batch_size=num_rows, gradient_accumulation_steps=1, disable_tqdm=True, **settings,
    )  # fmt: skip
    others: dict[str, Any] = {}
    if kind in ("dpo", "kto"):
        others["ref_model"] = load(folder, "reference")
    elif kind in ("gkd", "distillation"):
        others["teacher_model"] = load(folder, "reference")
    elif kind in ("grpo", "rloo"):
        others["reward_funcs"] = lambda completions, **_: rewards or [0.0] * len(completions)
    return trainer(
        model=load_classifier(folder) if kind == "reward" else load(folder, "policy"),
        args=args,
        train_dataset=datasets.Dataset.from_dict({name: TEXT[name] * num_rows for name in COLUMNS[kind]}),
        processing_class=AutoTokenizer.from_pretrained(folder / "policy"),
        **others,
    )


def preference_batch(trainer: Any, pairs: Rows) -> dict[str, Any]:
    """What DPO's collator makes of token ids."""
    return trainer.data_collator(
        [{"prompt_ids": row["prompt"], "chosen_ids": row["chosen"], "rejected_ids": row["rejected"]} for row in pairs]
    )


def reward_batch(trainer: Any, pairs: Rows) -> dict[str, Any]:
    """What the reward trainer's collator makes of whole sequences."""
    return trainer.data_collator([{f"{side}_ids": row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in pairs])


def concatenated_batch(trainer: Any, pairs: Rows) -> dict[str, Any]:
    """What ORPO's and CPO's collator makes of the columns that their `tokenize_row` gives."""
    features = []
    for row in pairs:
        feature = {"prompt_input_ids": row["prompt"], "prompt_attention_mask": [1] * len(row["prompt"])}
        for side in ("chosen", "rejected"):
            ids = row["prompt"] + row[side]
            feature[f"{side}_input_ids"] = ids
            feature[f"{side}_attention_mask"] = [1] * len(ids)
            feature[f"{side}_labels"] = [IGNORE] * len(row["prompt"]) + row[side]
        features.append(feature)
    return trainer.data_collator(features)


def rated_batch(trainer: Any, rated: Rows) -> dict[str, Any]:
    """What KTO's collator makes of token ids, the mismatched answers of the KL estimate among them."""
    names = {"prompt": "prompt_ids", "completion": "completion_ids", "mismatched": "KL_completion_ids", "good": "label"}
    return trainer.data_collator([{theirs: row[ours] for ours, theirs in names.items()} for row in rated])


def drawn_batch(trainer: Any, drawn: Rows) -> dict[str, Any]:
    """What GRPO's and distillation's `_generate_and_score_completions` gives: prompts padded left, answers right."""
    pad_id = trainer.processing_class.pad_token_id
    prompts, completions = ([torch.tensor(row[name]) for row in drawn] for name in ("prompt", "completion"))
    batch = {
        "prompt_ids": pad(prompts, padding_value=pad_id, padding_side="left"),
        "prompt_mask": pad([torch.ones_like(ids) for ids in prompts], padding_value=0, padding_side="left"),
        "completion_ids": pad(completions, padding_value=pad_id, padding_side="right"),
        "completion_mask": pad([torch.ones_like(ids) for ids in completions], padding_value=0, padding_side="right"),
        "num_items_in_batch": torch.tensor(sum(map(len, completions))),
    }
    if "advantage" in drawn[0]:
        batch["advantages"] = torch.tensor([row["advantage"] for row in drawn])
        batch["old_per_token_logps"] = pad([torch.tensor(row["old_logprobs"]) for row in drawn], padding_value=0.0)
    return batch


def grpo_batch(trainer: Any, drawn: Rows, folder: Path) -> dict[str, Any]:
    """`drawn_batch` and the reference's log-probs, by TRL's own method."""
    batch = drawn_batch(trainer, drawn)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    reference = build_trainer(folder, "grpo", {"num_generations": len(drawn)}, len(drawn))
    reference.model.load_state_dict(load(folder, "reference").state_dict())
    with torch.no_grad():
        batch["ref_per_token_logps"], *_ = reference._get_per_token_logps_and_entropies(
            reference.model, ids, mask, batch["completion_ids"].size(1)
        )
    trainer.current_gradient_accumulation_steps = 1
    return batch


def sequence_batch(trainer: Any, rows: Rows) -> dict[str, Any]:
    """Whole sequences with labels, as GKD reads them."""
    ids = [torch.tensor(row["prompt"] + row["completion"]) for row in rows]
    labels = [torch.tensor([IGNORE] * len(row["prompt"]) + row["completion"]) for row in rows]
    return {
        "input_ids": pad(ids, padding_value=trainer.processing_class.pad_token_id, padding_side="right"),
        "attention_mask": pad([torch.ones_like(one) for one in ids], padding_value=0, padding_side="right"),
        "labels": pad(labels, padding_value=IGNORE, padding_side="right"),
    }


def labelled_batch(trainer: Any, rows: Rows) -> dict[str, Any]:
    """What SFT's collator makes of ids and labels."""
    return trainer.data_collator(
        [
            {"input_ids": row["prompt"] + row["completion"], "labels": [IGNORE] * len(row["prompt"]) + row["completion"]}
            for row in rows
        ]
    )


def run_case(folder: Path, case: dict[str, Any], rows: dict[str, Rows]) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and the gradient of every parameter."""
    kind, mine = case["trainer"], rows[case["rows"]]
    trainer = build_trainer(folder, kind, case["settings"], len(mine))
    batches = {
        "dpo": preference_batch, "orpo": concatenated_batch, "cpo": concatenated_batch, "kto": rated_batch,
        "reward": reward_batch, "sft": labelled_batch, "gkd": sequence_batch, "distillation": drawn_batch,
    }  # fmt: skip
    batch = grpo_batch(trainer, mine, folder) if kind == "grpo" else batches[kind](trainer, mine)
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None}


def run_advantages(folder: Path, case: dict[str, Any], rewards: list[float]) -> list[float]:
    """The advantages of answers that a trainer draws and its reward function gives `rewards`, in order."""
    trainer = build_trainer(folder, case["trainer"], case["settings"], len(rewards), rewards)
    drawn = trainer._generate_and_score_completions([{"prompt": "a b"} for _ in rewards])
    return drawn["advantages"].tolist()


def quiet() -> None:
    """No bars, and no advice on a data set of one row that nothing is learned from."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def main() -> None:
    """Every case of FOLDER/cases.json."""
    folder = Path(sys.argv[1])
    quiet()
    told = json.loads((folder / "cases.json").read_text())
    (folder / "trl").mkdir()
    advantages = {name: run_advantages(folder, case, told["rewards"]) for name, case in told["advantages"].items()}
    losses = {}
    for number, (name, case) in enumerate(told["cases"].items()):
        losses[name], gradients = run_case(folder, case, told["rows"])
        save_file(gradients, folder / "trl" / f"{number}.safetensors")
    versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    (folder / "trl" / "losses.json").write_text(json.dumps({"losses": losses, "advantages": advantages, "versions": versions}))


if __name__ == "__main__":
    main()
