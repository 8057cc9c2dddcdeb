"""The reference: transformers.Trainer over exactly the sequences a hone run sees."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer, TrainingArguments

from hone.adapters.apply import attach, save_trained
from hone.config import load
from hone.models.load import load_model
from hone.training.checkpoints.randomness import seed_all
from hone.training.planning.draft import gather_material


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Padded on the right, labels shifted by the model itself."""
    ids = pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    labels = pad_sequence([row["labels"] for row in rows], batch_first=True, padding_value=-100)
    mask = pad_sequence([torch.ones_like(row["input_ids"]) for row in rows], batch_first=True)
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def main(settings: str, folder: str) -> None:
    """Train as the settings say and save the trained weights into `folder`."""
    run = load([settings], "train")
    tokens = gather_material(run).tokens
    rows = [
        {
            "input_ids": torch.as_tensor(tokens[i].sequences[0].ids, dtype=torch.int64),
            "labels": torch.as_tensor(tokens[i].sequences[0].labels, dtype=torch.int64),
        }
        for i in range(len(tokens))
    ]
    seed_all(run.train.seed)
    module = load_model(run.model, dtype=torch.float32, device=torch.device("cpu"), for_training=True)
    module = attach(module, run.adapter, base_name=run.model.model_name_or_path)
    arguments = TrainingArguments(
        output_dir=folder,
        use_cpu=True,
        per_device_train_batch_size=run.train.per_device_train_batch_size,
        gradient_accumulation_steps=run.train.gradient_accumulation_steps,
        learning_rate=run.optimizer.learning_rate,
        lr_scheduler_type=run.optimizer.lr_scheduler_type,
        warmup_steps=int(run.optimizer.warmup_steps),
        max_steps=run.train.max_steps,
        max_grad_norm=run.train.max_grad_norm,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=run.train.seed,
        disable_tqdm=True,
        optim="adamw_torch",
    )
    trainer = Trainer(model=module, args=arguments, train_dataset=rows, data_collator=collate)
    trainer.train()
    if trainer.is_world_process_zero():
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_trained(module, Path(folder))
        (Path(folder) / "losses.txt").write_text("\n".join(str(r["loss"]) for r in trainer.state.log_history if "loss" in r))
