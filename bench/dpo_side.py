"""One run of dpo_memory.py, watched, in its program's environment: `python dpo_side.py NOTES PROGRAM SETTINGS VOCABULARY PAD_ID`.

Knows nothing of hone: a program's own entry (hone, llamafactory or trl) is called as its command calls it. Writes to NOTES the
resident size when a tokenizer or weights are first asked for, the peak of the whole process, the loss of each step, and which
token ids went through each forward that was made with gradient.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import PreTrainedModel, PreTrainedTokenizerBase

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "trl", "llamafactory", "liger_kernel")


def resident(name: str) -> int:
    """VmRSS (now) or VmHWM (most so far) of this process, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def draw_alike() -> None:
    """From now on LoRA's random matrices depend on their shape alone, so that every program starts from the same."""
    draw = nn.init.kaiming_uniform_

    def drawn(tensor: Tensor, *args: Any, **more: Any) -> Tensor:
        if tensor.device.type == "cpu":
            more["generator"] = torch.Generator().manual_seed(tensor.numel())
        return draw(tensor, *args, **more)

    nn.init.kaiming_uniform_ = drawn


class Watch:
    """Notes of a run. vocabulary: rows of the embedding whose input is looked at; pad_id: the id that is no token of a text."""

    def __init__(self, vocabulary: int, pad_id: int):
        self.vocabulary, self.pad_id = vocabulary, pad_id
        self.notes: dict[str, Any] = {"batches": [], "losses": []}

    def start(self) -> None:
        """Look at every load, forward pass and backward pass from now on."""
        for kind in (PreTrainedTokenizerBase, PreTrainedModel):
            self.mark_loads(kind)
        register_module_forward_pre_hook(self.look)
        backward = Tensor.backward

        def watched(loss: Tensor, *args: Any, **more: Any) -> None:
            self.notes["losses"].append(loss.item())
            backward(loss, *args, **more)

        Tensor.backward = watched  # type: ignore[method-assign]

    def mark_loads(self, kind: Any) -> None:
        """Note what is resident before the first load of all."""
        load = kind.from_pretrained.__func__

        def from_pretrained(cls: type, *args: Any, **more: Any) -> Any:
            self.notes.setdefault("imported", resident("VmRSS"))
            return load(cls, *args, **more)

        kind.from_pretrained = classmethod(from_pretrained)

    def look(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Note the ids of each forward that is made with gradient."""
        if isinstance(module, nn.Embedding) and module.num_embeddings == self.vocabulary and torch.is_grad_enabled():
            ids = inputs[0]
            texts = ids[ids != self.pad_id]
            distinct = texts.unique().tolist()  # hone's row holds a pair's prompt once, the peers' rows hold it twice
            digest = hashlib.sha256(json.dumps(distinct).encode()).hexdigest()[:12]
            self.notes["batches"].append({"shape": list(ids.shape), "tokens": len(texts), "digest": digest})

    def finish(self, path: Path) -> None:
        """Write the notes, with the peak and the versions."""
        self.notes["peak"] = resident("VmHWM")
        self.notes["versions"] = {name: version(name) for name in LIBRARIES if name in sys.modules}
        path.write_text(json.dumps(self.notes))


def train_with_trl(told: dict[str, Any]) -> None:
    """TRL's DPOTrainer on rows of text; told: its settings, the model's folder, the rows and the rank of LoRA, 0 for none."""
    import datasets
    import peft
    import trl

    rank = told["lora_rank"]
    adapter = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM") if rank else None
    trainer = trl.DPOTrainer(
        model=told["model"],
        args=trl.DPOConfig(model_init_kwargs={"dtype": "float32"}, **told["settings"]),
        train_dataset=datasets.Dataset.from_list(told["rows"]),
        peft_config=adapter,
    )
    trainer.train()


def run(program: str, settings: Path) -> None:
    """The program's own way to train."""
    if program == "trl":
        return train_with_trl(json.loads(settings.read_text()))
    sys.argv = [program, "train", str(settings)]
    try:
        runpy.run_module({"hone": "hone", "llamafactory": "llamafactory.cli"}[program], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    return None


def main(notes: str, program: str, settings: str, vocabulary: int, pad_id: int) -> None:
    """Run, and leave the notes."""
    draw_alike()
    watch = Watch(vocabulary, pad_id)
    watch.start()
    run(program, Path(settings))
    watch.finish(Path(notes))


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:6]))
