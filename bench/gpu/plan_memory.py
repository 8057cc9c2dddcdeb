"""The plan's memory and time beside an accelerator's, in one command: `python bench/gpu/plan_memory.py [word ...]`. Needs a GPU.

Not yet run on a device. Knows no formula: each case is a run of three steps on a random model, whose peak is what torch's CUDA
allocator says. Wanted: within 10 percent of the plan, without fragmentation. "beside" is what the allocator had reserved beyond
that peak, over it, and "plan" what the plan takes for it. The last two columns are the plan's time and a step's, which says how
far the first estimate of time is off. `--toy` runs it on a CPU, on two narrow layers and rows of a 20th.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))
from plan_memory import WORDS, make_tokenizer
from plan_tensors import KINDS, METHODS, PARTS, measure

MODELS = {  # config.json of Llama-3.2-1B, and of Llama-3-8B with a quarter of its layers, so that it is written in seconds
    "1B": ("llama", {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                     "num_key_value_heads": 8, "vocab_size": 128_256}),
    "8B-quarter": ("llama", {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 8, "num_attention_heads": 32,
                             "num_key_value_heads": 8, "vocab_size": 128_256}),
    "moe": ("qwen3_moe", {"hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 6,
                          "num_experts": 64, "num_experts_per_tok": 8, "num_attention_heads": 32, "num_key_value_heads": 4,
                          "head_dim": 128, "vocab_size": 151_936}),
}  # fmt: skip
TOY = "--toy" in sys.argv
SHRUNK = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
SHRUNK |= {"vocab_size": 500, "head_dim": 16}
SHRUNK_EXPERTS = {"moe_intermediate_size": 32, "num_experts": 8}
LENGTHS = {"2K": 100, "8K": 400} if TOY else {"2K": 2_000, "8K": 8_000}
OFFLOADED = {"gradient_checkpointing": True, "gradient_checkpointing_kind": "offloaded"}


def make_inputs(folder: Path) -> None:
    """The models in bfloat16, and rows of about as many tokens as a length says, all alike."""
    tokenizer = make_tokenizer()
    for name, (family, settings) in MODELS.items():
        smaller = SHRUNK | (SHRUNK_EXPERTS if "num_experts" in settings else {}) if TOY else {}
        config = AutoConfig.for_model(family, max_position_embeddings=16_384, **{**settings, **smaller})
        with torch.device("cpu" if TOY else "cuda"):
            module = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        module.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        del module
        torch.cuda.empty_cache()
    catalog = {}
    for name, length in LENGTHS.items():
        rows = [{"instruction": "Say", "output": " ".join((WORDS * length)[: int(length * 0.95)])}] * 6
        (folder / f"{name}.json").write_text(json.dumps(rows))
        catalog[name] = {"file_name": f"{name}.json", "columns": {"prompt": "instruction", "response": "output"}}
    (folder / "dataset_info.json").write_text(json.dumps(catalog))


def main(wanted: list[str]) -> None:
    """One line a case."""
    kinds = {**KINDS, **({} if TOY else {"offloaded": OFFLOADED})}
    device = "a CPU: a toy" if TOY else torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}; parts compared: {', '.join(PARTS)}")
    print(f"{'case':<40}{'plan GiB':>10}{'measured':>10}{'ratio':>8}{'beside':>8}{'plan':>7}{'plan s':>9}{'a step':>9}")
    off = []
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        make_inputs(Path(name))
        for model, method, kind, length in itertools.product(MODELS, METHODS, kinds, LENGTHS):
            case = f"{model} {method} {kind} {length}"
            if not all(word in case.split() for word in wanted):
                continue
            settings = {**METHODS[method], **kinds[kind], "bf16": True, "dataset": length, "cutoff_len": 16_384}
            settings |= {"per_device_train_batch_size": 1, "max_steps": 3}
            found = measure(Path(name), model, settings, cuda=not TOY)
            off.append(found.ratio)
            print(
                f"{case:<40}{found.said / 2**30:>10.2f}{found.peak / 2**30:>10.2f}{found.ratio:>8.3f}"
                f"{max(0, found.reserved - found.peak) / found.peak:>8.1%}{found.beside / found.said:>7.1%}{found.expected:>9.3f}"
                f"{found.seconds:>9.3f}",
                flush=True,
            )
    print(f"{len(off)} cases; plan / measured {min(off):.3f} to {max(off):.3f}")


if __name__ == "__main__":
    main([word for word in sys.argv[1:] if word != "--toy"])
