"""The plan's memory beside torch's CPU allocator, of every causal architecture: `python bench/plan_families.py [word ...]`.

Only cases whose names hold every word given are run; "2/8" runs the second of eight shares of them. The models are the tests'
tiny ones with widths eight times theirs and twice their layers. "formula": the plan said that it is an estimate by a formula.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from plan_memory import make_tokenizer
from plan_tensors import HEAD, METHODS, TYPES, chosen_of, line_of, make_rows, measure
from transformers import AutoConfig, AutoModelForCausalLM

from hone.training.planning import forecast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.families import COMMON, FAMILIES

VOCABULARY, TIMES = 4000, 8
WIDTHS = (
    "hidden_size intermediate_size head_dim moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size "
    "intermediate_size_mlp qk_rope_head_dim qk_nope_head_dim v_head_dim kv_lora_rank q_lora_rank o_lora_rank index_head_dim "
    "linear_key_head_dim linear_value_head_dim linear_head_dim hidden_size_per_layer_input laurel_rank mamba_d_head mamba_d_ssm "
    "mamba_dt_rank n_embd rotary_dim word_embed_proj_dim ffn_dim d_model ffn_hidden_size sliding_window attention_chunk_size"
).split()
TOKENS = "max_position_embeddings n_positions max_seq_len".split()
LAYERS = "num_hidden_layers n_layer n_layers".split()
CASES = (("lora", "bf16"), ("full", "fp32"))


def widened(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a tiny model made wider and deeper."""
    found = {}
    for name, value in settings.items():
        if name == "per_layer_config":
            value = {number: widened(value["1"]) for number in ("1", "3")}
        elif isinstance(value, dict) and name != "rope_parameters":
            value = widened(value)
        elif name in WIDTHS and value is not None:
            value = TIMES * value
        elif name in TOKENS:
            value = 1024
        elif name in LAYERS:
            value = 2 * value
        elif name == "moe_layers":
            value = [1, 3]
        elif isinstance(value, list) and len(value) == 2:
            value = 2 * value
        elif name in ("vocab_size", "vocab_size_per_layer_input"):
            value = VOCABULARY
        found[name] = value
    return found


def make_model(folder: Path, family: str) -> None:
    """A random model of the family."""
    settings = widened({**COMMON, **FAMILIES[family].settings, "tie_word_embeddings": False})
    ids = {"pad_token_id": VOCABULARY - 1, "bos_token_id": 1, "eos_token_id": 2}
    settings = {name: value for name, value in {**settings, **ids}.items() if value is not None}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family.partition("+")[0], **settings)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def main(words: list[str]) -> None:
    """One line a case: MiB by the plan and measured."""
    print(HEAD, flush=True)
    off, made = [], set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        make_rows(folder)
        pairs = itertools.product(FAMILIES, CASES)
        names = {f"{family} {method} {dtype}": (family, method, dtype) for family, (method, dtype) in pairs}
        for case in chosen_of(names, words):
            family, method, dtype = names[case]
            if family not in made:
                make_model(folder / family, family)
                made.add(family)
            forecast._passes.clear()
            found = measure(folder, family, {**METHODS[method], **TYPES[dtype]}, cuda=False)
            off += [found.ratio] if found.from_layers else []
            print(line_of(case, found), flush=True)
    print(f"{len(off)} cases from layers; {min(off):.3f} to {max(off):.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
