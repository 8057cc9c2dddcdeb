"""A real architecture with random weights as files: `python make_model.py FOLDER JSON`, made on the device where there is one.

Does not know what is measured. JSON: data, the folder of configs and tokenizers; model and tokenizer, names in it; toy; length.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

TOY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TOY_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
OPEN, CLOSE = {"llama-3.1": "<|begin_of_text|>", "qwen3": "<|im_start|>"}, {"llama-3.1": "<|eot_id|>", "qwen3": "<|im_end|>"}


def main(folder: str, told: str) -> None:
    """FOLDER/model, and FOLDER/ids.json: what inputs are made of."""
    asked, place = json.loads(told), Path(folder, "model")
    tokenizer = AutoTokenizer.from_pretrained(Path(asked["data"], "tokenizers", asked["tokenizer"]))
    opened, closed = OPEN[asked["tokenizer"]], CLOSE[asked["tokenizer"]]
    tokenizer.chat_template = (
        "{% for m in messages if m.content %}{{ '" + opened + "' + m.content + '" + closed + "' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '" + opened + "' }}{% endif %}"
    )
    tokenizer.eos_token = closed
    tokenizer.pad_token = tokenizer.pad_token or closed
    config = AutoConfig.from_pretrained(Path(asked["data"], "model_configs", asked["model"]))
    shrunk = (TOY | (TOY_EXPERTS if hasattr(config, "num_experts") else {})) if asked["toy"] else {}
    for name, value in shrunk.items():
        setattr(config, name, value)
    if asked["toy"]:
        config.head_dim = 16
    config.max_position_embeddings = max(config.max_position_embeddings, asked["length"])
    config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    print(json.dumps({"vocabulary": config.vocab_size, "pad_id": tokenizer.pad_token_id}))


if __name__ == "__main__":
    main(*sys.argv[1:])
