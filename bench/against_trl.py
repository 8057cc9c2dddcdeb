"""Each objective's loss and gradient beside TRL's: `python bench/against_trl.py --trl-python PATH [name ...]`, no name for all.

Knows no formula: hone's side is `Objective.loss` of a Policy, TRL's is trl_side.py in an environment of its own, on the same ids
and weights. The model is a random Llama of two layers in fp32, its reference a copy with noise; both are made on the spot.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["<pad>", "</s>", "a", "b", "c", "d", *(f"w{number}" for number in range(58))]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One row of the table. trainer, settings: TRL's words. hone: flat keys. rows: which of `make_rows` it learns from."""

    trainer: str
    settings: dict[str, Any] = field(default_factory=dict)
    hone: dict[str, Any] = field(default_factory=dict)
    rows: str = "pairs"


def dpo(loss_type: str, hone: dict[str, Any] | None = None, **settings: Any) -> Case:
    """A case of TRL's DPO trainer with beta 0.3."""
    return Case("dpo", {"loss_type": [loss_type], "beta": 0.3, **settings}, {"stage": "dpo", "pref_beta": 0.3, **(hone or {})})


def grpo(loss_type: str, hone: dict[str, Any] | None = None, **settings: Any) -> Case:
    """A case of TRL's GRPO trainer, two groups of four answers."""
    common = {"num_generations": 4, "max_completion_length": 16, "beta": 0.0}
    return Case("grpo", {**common, "loss_type": loss_type, **settings}, {"stage": "grpo", **(hone or {})}, "drawn")


CASES = {
    "dpo sigmoid": dpo("sigmoid"),
    "dpo hinge": dpo("hinge"),
    "dpo ipo": dpo("ipo"),
    "dpo robust": dpo("robust", label_smoothing=0.1),
    "dpo exo": dpo("exo_pair", label_smoothing=0.1),
    "dpo nca": dpo("nca_pair"),
    "dpo bco": dpo("bco_pair"),
    "dpo sppo": dpo("sppo_hard"),
    "dpo aot": dpo("aot"),
    "dpo apo_zero": dpo("apo_zero"),
    "dpo apo_down": dpo("apo_down"),
    "dpo discopop": dpo("discopop"),
    "dpo sigmoid_norm": dpo("sigmoid_norm"),
    "dpo, ld_alpha 0.5": dpo("sigmoid", ld_alpha=0.5),
    "dpo + sft": Case("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5], "beta": 0.3}),
    "orpo": Case("orpo", {"beta": 0.3}),
    "simpo": Case("cpo", {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.0}),
    "cpo": Case("cpo", {"loss_type": "sigmoid", "beta": 0.3, "cpo_alpha": 1.0}),
    "kto": Case("kto", {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.8}, rows="rated"),
    "kto apo_zero": Case("kto", {"beta": 0.3, "loss_type": "apo_zero_unpaired"}, rows="rated"),
    "reward": Case("reward"),
    "reward, centred": Case("reward", {"center_rewards_coefficient": 0.01}),
    "grpo": grpo("grpo"),
    "grpo, kl": grpo("grpo", beta=0.04),
    "bnpo": grpo("bnpo"),
    "dr_grpo": grpo("dr_grpo"),
    "dapo": grpo("dapo", epsilon_high=0.28),
    "gspo": grpo("grpo", importance_sampling_level="sequence", epsilon=0.1),
    "cispo": grpo("cispo", epsilon_high=1.3),
    "sapo": grpo("sapo"),
    "gkd": Case("gkd", {"beta": 0.5}, rows="drawn"),
    "distillation": Case("distillation", {"beta": 0.5, "temperature": 2.0, "max_completion_length": 16}, rows="drawn"),
}


def make_models(folder: Path) -> None:
    """FOLDER/policy, FOLDER/reference (the same with noise) and FOLDER/score.safetensors, the head of a reward model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.15, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.save_pretrained(folder / "policy")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>").save_pretrained(folder / "policy")
    save_file({"score.weight": torch.randn(1, 32) / 8}, folder / "score.safetensors")
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.06 * torch.randn_like(weight)
    model.save_pretrained(folder / "reference")


def make_rows(model: LlamaForCausalLM) -> dict[str, Rows]:
    """Pairs, rated answers and drawn answers of uneven lengths, one answer of a single token among them."""
    rng, noise = random.Random(0), torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        return [rng.randrange(2, len(WORDS)) for _ in range(length)]

    lengths = [(3, 4, 6), (7, 9, 2), (2, 1, 5), (5, 6, 6), (4, 3, 8)]
    pairs = [{"prompt": ids(a), "chosen": ids(b), "rejected": ids(c)} for a, b, c in lengths]
    rated = [{"prompt": ids(2 + n), "completion": ids(1 + 3 * n % 7), "good": n in (0, 2, 3)} for n in range(6)]
    for row, before in zip(rated, [rated[-1], *rated[:-1]], strict=True):
        row["mismatched"] = before["completion"]
    prompts = [ids(3), ids(6)]
    drawn: Rows = [{"prompt": prompts[n // 4], "completion": ids(1 + 5 * n % 9), "group": n // 4} for n in range(8)]
    for row in drawn:
        row["advantage"] = round(rng.uniform(-1.5, 1.5), 3)
        logprobs = completion_logprobs(model, row["prompt"], row["completion"])
        row["old_logprobs"] = (logprobs + 0.3 * torch.randn(logprobs.shape, generator=noise)).tolist()
    return {"pairs": pairs, "rated": rated, "drawn": drawn}


@torch.no_grad()
def completion_logprobs(model: LlamaForCausalLM, prompt: list[int], completion: list[int]) -> Tensor:
    """Log-prob of each token of the completion, from plain logits."""
    logits_TV = model(torch.tensor([prompt + completion])).logits[0]
    where = torch.arange(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return logits_TV[where].log_softmax(-1)[torch.arange(len(completion)), torch.tensor(completion)]


def run_trl(folder: Path, python: str) -> dict[str, Any]:
    """TRL's losses by case, its gradients as files in FOLDER/trl, and its versions."""
    subprocess.run([python, Path(__file__).with_name("trl_side.py"), folder], check=True)
    return json.loads((folder / "trl" / "losses.json").read_text())


def main() -> None:
    """Print a table of the cases named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trl-python", required=True, help="the python of an environment with trl")
    parser.add_argument("names", nargs="*", default=[], help="cases, all where none is named")
    asked = parser.parse_args()
    cases = {name: CASES[name] for name in asked.names or CASES}
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        make_models(folder)
        rows = make_rows(LlamaForCausalLM.from_pretrained(folder / "policy"))
        told = {"rows": rows, "cases": {name: asdict(case) for name, case in cases.items()}}
        (folder / "cases.json").write_text(json.dumps(told))
        theirs = run_trl(folder, asked.trl_python)
        print(theirs["versions"])
        for number, name in enumerate(cases):
            gradients = load_file(folder / "trl" / f"{number}.safetensors")
            norm = sum(float(one.square().sum()) for one in gradients.values()) ** 0.5
            print(f"{name:24} {theirs['losses'][name]:12.7f} {norm:10.5f} {len(gradients)}")


if __name__ == "__main__":
    main()
