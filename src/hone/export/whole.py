"""Merging with the whole model in memory, for what cannot be done tensor by tensor: DoRA, older files.

Does not know why it was asked to.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError

from hone.adapters.apply import attach
from hone.config.adapter import Adapter
from hone.config.model import ModelConfig
from hone.errors import ExportError
from hone.export.source import DTYPES, stored_tensors, torch_name
from hone.export.write import Written
from hone.models.load import load_model
from hone.models.score_head import ScoreHead


def merge_whole(
    model: ModelConfig,
    adapter: Adapter,
    folder: Path,
    *,
    dtype: str,
    shard_bytes: int,
    device: torch.device,
    length: int | None,
    head: ScoreHead | None = None,
) -> Written:
    """Load base and adapters, merge in fp32, write `folder` with its config.json. dtype: safetensors' name of the format written.

    Raises: ModelError where something cannot be loaded or does not fit.
    """
    module = load_model(model, dtype=torch.float32, device=device, for_training=False, length=length, head=head)
    module = attach(module, adapter, base_name=model.model_name_or_path, trainable=False).to(DTYPES[dtype])
    try:
        module.save_pretrained(folder, max_shard_size=shard_bytes)
    except SafetensorError as fault:  # what a full disk is to safetensors
        raise ExportError(f"the weights cannot be written: {fault}") from fault
    files = sorted(path.name for path in folder.glob("model*.safetensors"))
    tensors = {name: tensor for file in files for name, tensor in stored_tensors(folder / file).items()}
    total = sum(tensor.num_bytes for tensor in tensors.values())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = torch_name(dtype)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return Written(tuple(files), total, len(tensors))
