"""One LoRA training step by peft's forward and in fewer products, fp32 and bf16: `python bench/lora_step.py DATA [model ...]`.

Knows no run: a random Llama, LoRA of rank 8 on all linear layers, 8 rows of the alpaca demo (in DATA) packed, AdamW; forward,
backward and optimizer on one thread. The forms take each step in turn; processor time, medians and quartiles; what the graph
keeps for its backward pass, weights left out. Losses of a step must be alike, or the script stops. `curve` in place of models:
the losses of 60 steps in fp32 and bf16, of 2 rows each, means of ten.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from hone.adapters.apply import attach
from hone.adapters.fuse import Fused
from hone.chat.encoded import IGNORE, Encoded
from hone.config.adapter import Lora
from hone.data.batch import Batch, pack
from hone.models.policy import Policy
from hone.models.prepared import bound_prepared

MODELS = {  # vocabulary, width, feed-forward, layers, heads, key-value heads, steps
    "15M": (8_000, 384, 1_024, 8, 6, 6, 6),
    "134M": (49_152, 576, 1_536, 30, 9, 3, 2),
}
FORMS = (("peft, fp32", False, torch.float32), ("hone, fp32", True, torch.float32), ("peft, bf16", False, torch.bfloat16))
FORMS = (*FORMS, ("hone, bf16", True, torch.bfloat16))
ROWS = 8


def encode_rows(folder: Path) -> list[Encoded]:
    """The demo's rows in ids of an 8,000-word BPE made of them; the answer is learned."""
    rows = json.loads((folder / "llamafactory" / "alpaca_en_demo.json").read_text())
    texts = [(f"User: {row['instruction']}\n{row['input']}\nAssistant: ", row["output"]) for row in rows]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=8_000, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([text for pair in texts for text in pair], trainer)
    encoded = []
    for prompt, answer in texts:
        given, learned = (np.array(backend.encode(text).ids, np.int32) for text in (prompt, answer))
        labels = np.concatenate([np.full(len(given), IGNORE, np.int32), learned])
        encoded.append(Encoded(np.concatenate([given, learned]), labels))
    return encoded


def make_policy(name: str, fused: bool, dtype: torch.dtype) -> Policy:
    """The model with its adapter, whose second matrices are drawn too, as after some steps."""
    vocabulary, width, wide, layers, heads, pairs, _ = MODELS[name]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=wide, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=pairs, tie_word_embeddings=name != "15M", use_cache=False,
    )  # fmt: skip
    module = attach(LlamaForCausalLM(config).to(dtype).train(), Lora(), base_name=name)
    for path, weight in module.named_parameters():
        if "lora_B" in path:
            nn.init.normal_(weight, std=0.02)
    if not fused:
        for layer in [layer for layer in module.modules() if isinstance(layer, Fused)]:
            layer.__class__ = type(layer).__mro__[2]
    policy = Policy(module, 0.0)
    assert policy.self_test().can_pack
    return policy


def kept_bytes(forward: Callable[[], Tensor], module: nn.Module) -> int:
    """What the graph of `forward` holds, each storage once, weights left out."""
    weights = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = forward()
    del loss
    return sum(held.values())


class Runner:
    """One form of the model with its optimizer."""

    def __init__(self, name: str, fused: bool, dtype: torch.dtype, rate: float = 1e-4):
        self.policy, self.mixed = make_policy(name, fused, dtype), dtype != torch.float32
        trained = [weight for weight in self.policy.module.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=rate, fused=True)

    def share(self, other: Runner) -> Runner:
        """Hold the frozen weights of `other`, which are the same."""
        for mine, its in zip(self.policy.module.parameters(), other.policy.module.parameters(), strict=True):
            if not mine.requires_grad:
                mine.data = its.data
        return self

    def loss(self, batch: Batch) -> Tensor:
        """The mean over learned tokens."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.mixed):
            return self.policy.token_losses(batch).sum() / batch.num_trained

    def step(self, batch: Batch) -> tuple[float, float]:
        """Seconds of the processor and the loss."""
        started = time.process_time()
        loss = self.loss(batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - started, float(loss.detach())


def measure(name: str, encoded: list[Encoded], rng: random.Random) -> None:
    """The table of one model; ratios are medians of each step's own."""
    runners: list[Runner] = []
    for _, fused, dtype in FORMS:
        runner = Runner(name, fused, dtype)
        runners.append(runner.share(runners[-1]) if fused else runner)
    times: list[list[float]] = [[] for _ in FORMS]
    for step in range(MODELS[name][-1] + 1):
        batch = pack(rng.sample(encoded, ROWS))
        found = [runner.step(batch) for runner in runners]
        losses = [loss for _, loss in found]
        if max(losses) - min(losses) > 0.02:
            raise SystemExit(f"the losses of a step differ: {losses}")
        if step:  # the first makes what later ones find
            for one, (seconds, _) in zip(times, found, strict=True):
                one.append(seconds)
    print(f"{name}, {batch.ids_BT.numel()} tokens in the last of {len(times[0])} steps")
    print(f"{'form':<12}{'ms a step':>10}{'quartiles':>16}{'peft fp32 / it':>16}{'graph keeps':>14}")
    for (form, _, _), runner, one in zip(FORMS, runners, times, strict=True):
        ratio = statistics.median(first / mine for first, mine in zip(times[0], one, strict=True))
        low, middle, high = (1e3 * cut for cut in statistics.quantiles(one, n=4))
        kept = kept_bytes(lambda runner=runner: runner.loss(batch), runner.policy.module)
        print(f"{form:<12}{middle:>10.0f}{f'{low:.0f} - {high:.0f}':>16}{ratio:>16.2f}{kept / 2**20:>10.0f} MiB")


def curve(encoded: list[Encoded], rng: random.Random, steps: int = 60, rate: float = 2e-3) -> None:
    """The same batches of 2 rows in fp32 by peft and by hone, and in bf16 by hone."""
    forms = [form for form in FORMS if form[0] != "peft, bf16"]
    runners = [Runner("15M", fused, dtype, rate) for _, fused, dtype in forms]
    print(f"{'steps':<10}" + "".join(f"{form:>14}" for form, _, _ in forms) + f"{'bf16 - fp32':>14}", flush=True)
    rows: list[list[float]] = []
    for step in range(1, steps + 1):
        batch = pack(rng.sample(encoded, 2))
        rows.append([runner.step(batch)[1] for runner in runners])
        if step % 10 == 0:
            means = np.mean(rows[-10:], 0)
            told = "".join(f"{mean:>14.4f}" for mean in means)
            print(f"{f'{step - 9} - {step}':<10}{told}{means[2] - means[1]:>14.4f}", flush=True)
    apart = np.abs(np.array(rows) - np.array(rows)[:, 1:2]).max(0)
    print(f"largest difference of a step to hone in fp32: peft in fp32 {apart[0]:.6f}, hone in bf16 {apart[2]:.4f}")


def main(folder: str, names: list[str]) -> None:
    """One table a model."""
    bound_prepared(torch.device("cpu"))
    torch.set_num_threads(1)
    encoded = encode_rows(Path(folder))
    for name in names or MODELS:
        if name == "curve":
            curve(encoded, random.Random(0))
        else:
            measure(name, encoded, random.Random(0))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
