"""Trains the demo's byte-level tokenizer on the base text, and writes it with the config of a small Llama into demo/model.

Knows no weights: `hone train demo/base.yaml` draws them.
"""

from __future__ import annotations

from pathlib import Path

import make_data
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

FOLDER = Path(__file__).resolve().parent / "model"
VOCABULARY = 1024
BEGIN, PAD, HEADER, HEADER_END, STOP = SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that has seen the base rows and the names of the roles, never the facts that are taught later."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=3,
        show_progress=False,
    )
    text = [part for row in make_data.make()["base"] for part in row.values()]
    backend.train_from_iterator([*text, *["system", "user", "assistant"] * 3], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BEGIN, eos_token=STOP, pad_token=PAD, chat_template=TEMPLATE, model_max_length=512
    )


def make_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """A Llama of 1.8 million weights."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def write(folder: Path) -> None:
    """Write tokenizer and config into `folder`."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_config(tokenizer).save_pretrained(folder)


if __name__ == "__main__":
    write(FOLDER)
    print(f"{len(make_tokenizer())} tokens in {FOLDER.name}")
