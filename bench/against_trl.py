"""Each objective's loss and gradient beside TRL's: `python bench/against_trl.py [name ...]`, no name for all.

Knows no formula: hone's side is `Objective.loss` of a Policy, TRL's is trl_losses.py in an environment of its own, on the
same ids and weights. The model is a random Llama of two layers in fp32, its reference a copy with noise; both are made here.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from environments import ENVIRONMENTS, python_of
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hone.chat.encoded import IGNORE, Encoded, Example
from hone.config.objective import Objective as ObjectiveConfig
from hone.data.batch import Batch, pack
from hone.inference.rollout import Sampling
from hone.models.policy import Policy
from hone.models.reference import Reference
from hone.models.value_head import add_value_head
from hone.objectives.advantage import advantages
from hone.objectives.build import build_objective
from hone.objectives.onpolicy import OnPolicy

WORDS = ["<pad>", "</s>", "a", "b", "c", "d", *(f"w{number}" for number in range(58))]
DRAWN = {"num_generations": 4, "max_completion_length": 16}
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One row of the table. trainer, settings: TRL's words; hone: those of its section; rows: which of `make_rows`.

    times: what TRL's loss is multiplied by before the two are compared, where they differ by a known factor. of_step: numbers of
    the whole step that hone's loss is given in place of those it measures.
    """

    trainer: str
    settings: dict[str, Any]
    hone: dict[str, Any]
    rows: str
    times: float = 1.0
    of_step: dict[str, float] = field(default_factory=dict)


def dpo(loss_type: str, pref_loss: str, trl: dict[str, Any] | None = None, hone: dict[str, Any] | None = None) -> Case:
    """Five pairs against a reference, beta 0.3."""
    theirs = {"loss_type": [loss_type], "beta": 0.3, **(trl or {})}
    return Case("dpo", theirs, {"kind": "preference", "pref_loss": pref_loss, "pref_beta": 0.3, **(hone or {})}, "pairs")


def grpo(trl: dict[str, Any], hone: dict[str, Any]) -> Case:
    """Two groups of four answers, drawn by a policy that was another: `num_iterations` has hone read their old log-probs."""
    theirs = {**DRAWN, "beta": 0.0, **trl}
    mine = {"kind": "grpo", "reward_funcs": ["length"], "num_iterations": 2, "importance_sampling_correction": False, **hone}
    return Case("grpo", theirs, mine, "drawn")


def distill(trl: dict[str, Any], hone: dict[str, Any], *, times: float = 1.0) -> Case:
    """A teacher's distribution on answers; TRL's trainer for drawn answers, given ones that are there already."""
    return Case("distillation", {"max_completion_length": 16, **trl}, {"kind": "distill", **hone}, "drawn", times)


CASES = {
    "sft": Case("sft", {}, {"kind": "sft"}, "drawn"),
    "sft, label smoothing": Case("sft", {"label_smoothing_factor": 0.1}, {"kind": "sft", "label_smoothing_factor": 0.1}, "drawn"),
    "dft": Case("sft", {"loss_type": "dft"}, {"kind": "sft", "sft_loss": "dft"}, "drawn"),
    "dpo": dpo("sigmoid", "sigmoid"),
    "dpo, label smoothing (TRL's aot of one pair)": replace(
        dpo("aot", "sigmoid", {"label_smoothing": 0.1}, {"dpo_label_smoothing": 0.1}), rows="one pair"
    ),
    "robust": dpo("robust", "robust", {"label_smoothing": 0.1}, {"dpo_label_smoothing": 0.1}),
    "hinge": dpo("hinge", "hinge"),
    "ipo": dpo("ipo", "ipo"),
    "ld-dpo": dpo("sigmoid", "sigmoid", {"ld_alpha": 0.5}, {"ld_alpha": 0.5}),
    "dpo + bco, without BCO's shift (TRL's / 2)": replace(
        dpo("sigmoid", "sigmoid", {"loss_type": ["sigmoid", "bco_pair"], "loss_weights": [1.0, 1.0]}, {"pref_bco_weight": 1.0}),
        times=0.5,
        of_step={"ratio/chosen": 0.0, "ratio/rejected": 0.0},
    ),
    **{
        f"{name}{note}": replace(case, rows=rows)
        for note, rows in (("", "pairs"), (", even rows", "even pairs"))
        for name, case in {
            "dpo + sft": dpo(
                "sigmoid", "sigmoid", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}, {"pref_ftx": 0.5}
            ),
            "orpo": Case("orpo", {"beta": 0.3}, {"kind": "preference", "pref_loss": "orpo", "pref_beta": 0.3}, ""),
            "cpo": Case(
                "cpo", {"loss_type": "sigmoid", "beta": 0.3}, {"kind": "preference", "pref_loss": "cpo", "pref_beta": 0.3}, ""
            ),
        }.items()
    },
    "simpo": Case(
        "cpo",
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.0},
        {"kind": "preference", "pref_loss": "simpo", "pref_beta": 2.0, "simpo_gamma": 0.5},
        "pairs",
    ),
    "kto": Case(
        "kto",
        {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.8},
        {"kind": "kto", "pref_beta": 0.3, "kto_chosen_weight": 1.5, "kto_rejected_weight": 0.8},
        "rated",
    ),
    "reward": Case("reward", {}, {"kind": "reward"}, "pairs"),
    "forward kl": distill({"beta": 0.0}, {"distill_loss": "forward_kl"}),
    "reverse kl": distill({"beta": 1.0}, {"distill_loss": "reverse_kl"}),
    "generalised js": distill({"beta": 0.3}, {"distill_loss": "js", "distill_beta": 0.3}),
    "forward kl, temperature 2 (TRL's times 4)": distill(
        {"beta": 0.0, "temperature": 2.0}, {"distill_loss": "forward_kl", "distill_temperature": 2.0}, times=4.0
    ),
    **{
        f"gkd, {name}": Case("gkd", {"beta": beta}, {"kind": "gkd", **hone}, "drawn")
        for name, beta, hone in (
            ("forward kl", 0.0, {"distill_loss": "forward_kl"}),
            ("reverse kl", 1.0, {"distill_loss": "reverse_kl"}),
            ("js", 0.3, {"distill_loss": "js", "distill_beta": 0.3}),
        )
    },
    "grpo": grpo({"loss_type": "grpo"}, {"loss_type": "grpo"}),
    "grpo, kl": grpo({"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False}, {"loss_type": "grpo", "beta": 0.04}),
    "grpo, kl, unbiased": grpo(
        {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": True},
        {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": True},
    ),
    "dr_grpo": grpo({"loss_type": "dr_grpo"}, {"loss_type": "dr_grpo"}),
    "dapo": grpo({"loss_type": "dapo", "epsilon_high": 0.28}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "gspo": grpo(
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.1},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.1},
    ),
    **{
        f"gspo, kl, unbiased{note}": replace(
            grpo(
                {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.04, "use_bias_correction_kl": True},
                {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.04, "use_bias_correction_kl": True},
            ),
            rows=rows,
        )
        for note, rows in (("", "drawn"), (", answers of one token", "drawn, one token"))
    },
}
RENAMED = {"v_head.summary.weight": "score.weight", "v_head.summary.bias": ""}
"""TRL's names of weights; "" for one it has not: what is added to both scores of a pair changes nothing."""
REWARDS = [1.0, 0.0, 0.25, 1.0, 0.5, 0.5, 0.5, 2.0]
ADVANTAGES = {
    **{f"grpo, {scale}": ("grpo", {"scale_rewards": scale}) for scale in ("group", "batch", "none")},
    "rloo, none": ("rloo", {}),
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
    short = [{**row, **{name: row[name][:1] for name in ("completion", "old_logprobs")}} for row in drawn]
    even = [{"prompt": ids(1), "chosen": ids(5), "rejected": ids(n)} for n in (3, 5, 8)]
    return {"pairs": pairs, "one pair": pairs[:1], "even pairs": even, "rated": rated, "drawn": drawn, "drawn, one token": short}


@torch.no_grad()
def completion_logprobs(model: LlamaForCausalLM, prompt: list[int], completion: list[int]) -> Tensor:
    """Log-prob of each token of the completion, from plain logits."""
    logits_TV = model(torch.tensor([prompt + completion])).logits[0]
    where = torch.arange(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return logits_TV[where].log_softmax(-1)[torch.arange(len(completion)), torch.tensor(completion)]


def run_trl(folder: Path, python: Path, cases: dict[str, Case], rows: dict[str, Rows]) -> dict[str, Any]:
    """TRL's losses by case, its gradients as files in FOLDER/trl, its advantages and its versions."""
    told = {"rows": rows, "cases": {name: asdict(case) for name, case in cases.items()}, "rewards": REWARDS}
    told["advantages"] = {name: {"trainer": kind, "settings": DRAWN | more} for name, (kind, more) in ADVANTAGES.items()}
    (folder / "cases.json").write_text(json.dumps(told))
    subprocess.run([python, Path(__file__).with_name("trl_losses.py"), folder], check=True)
    return json.loads((folder / "trl" / "losses.json").read_text())


def sequence(prompt: list[int], answer: list[int]) -> Encoded:
    """One sequence of which the answer is learned."""
    labels = [IGNORE] * len(prompt) + answer
    return Encoded(np.array(prompt + answer, np.int32), np.array(labels, np.int32))


def make_batch(case: Case, rows: Rows) -> Batch:
    """The rows packed as the objective reads them; beside answers that were drawn stands what it is told of each."""
    if "chosen" in rows[0]:
        return pack([Example(tuple(sequence(row["prompt"], row[side]) for side in ("chosen", "rejected"))) for row in rows])
    sequences = [sequence(row["prompt"], row["completion"]) for row in rows]
    if "mismatched" in rows[0]:
        others = [sequence(row["prompt"], row["mismatched"]) for row in rows]
        return pack([Example(tuple(both), float(row["good"])) for *both, row in zip(sequences, others, rows, strict=True)])
    if case.trainer != "grpo":
        return pack(sequences, aside={"on_policy": [1.0] * len(rows)} if case.trainer == "gkd" else None)
    aside = {
        "advantage": [row["advantage"] for row in rows],
        "learned": [1.0] * len(rows),
        "old": [np.array([0.0] * len(row["prompt"]) + row["old_logprobs"], np.float32) for row in rows],
    }
    return pack(sequences, range(len(rows)), aside)


def run_hone(folder: Path, case: Case, rows: Rows) -> tuple[float, dict[str, Tensor]]:
    """hone's loss, divided by its own count, and the gradient of every parameter."""
    model, reference = (LlamaForCausalLM.from_pretrained(folder / name) for name in ("policy", "reference"))
    policy = Policy(model.train())
    policy.reference = Reference(Policy(reference))
    objective = build_objective(TypeAdapter(ObjectiveConfig).validate_python(case.hone))
    if isinstance(objective, OnPolicy):
        objective.start(SimpleNamespace(tokenizer=None), Sampling(DRAWN["max_completion_length"], (), 0))
    if objective.needs_value_head:
        add_value_head(model)
        model.v_head.summary.weight.data = load_file(folder / "score.safetensors")["score.weight"]
    batch = make_batch(case, rows)
    if objective.of_step:
        told = {name: float(total / count) for name, (total, count) in objective.measure(policy, batch).items()}
        batch = batch.beside(case.of_step or told)
    loss = objective.loss(policy, batch).total / objective.count(batch)
    loss.backward()
    named = {RENAMED.get(name, name): weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return loss.item(), {name: one for name, one in named.items() if name}


def compare(name: str, theirs: tuple[float, dict[str, Tensor]], mine: tuple[float, dict[str, Tensor]]) -> str:
    """The case's row of the table."""
    assert theirs[1].keys() == mine[1].keys(), theirs[1].keys() ^ mine[1].keys()
    norm = torch.cat([one.flatten() for one in theirs[1].values()]).norm().item()
    largest = max(float((mine[1][key] - one).abs().max()) for key, one in theirs[1].items())
    difference = abs(mine[0] - theirs[0]) / abs(theirs[0])
    return f"| {name} | {theirs[0]:.6f} | {mine[0]:.6f} | {difference:.1e} | {largest / norm:.1e} |"


def compare_advantages(theirs: dict[str, list[float]]) -> str:
    """The largest difference between advantages of the same rewards, by way of reckoning them."""
    rewards_PG, found = torch.tensor(REWARDS).view(-1, DRAWN["num_generations"]), []
    for name, numbers in theirs.items():
        mine = advantages(rewards_PG, *name.split(", ")).flatten()
        found.append(f"{name} {float((mine - torch.tensor(numbers)).abs().max()):.1e}")
    return "advantages, largest difference: " + "; ".join(found)


def main() -> None:
    """Print a table of the cases named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where TRL's environment is or is made")
    parser.add_argument("names", nargs="*", default=[], help="cases, all where none is named")
    asked = parser.parse_args()
    cases = {name: CASES[name] for name in asked.names or CASES}
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        make_models(folder)
        rows = make_rows(LlamaForCausalLM.from_pretrained(folder / "policy"))
        found = run_trl(folder, python_of("trl", asked.environments), cases, rows)
        print(*(f"{name} {version}" for name, version in found["versions"].items()))
        print("| method | TRL's loss | hone's loss | relative difference | largest difference of gradients / norm |")
        print("|---|---|---|---|---|")
        for number, (name, case) in enumerate(cases.items()):
            gradients = load_file(folder / "trl" / f"{number}.safetensors")
            theirs = case.times * found["losses"][name], {key: case.times * one for key, one in gradients.items()}
            print(compare(name, theirs, run_hone(folder, case, rows[case.rows])))
        print(compare_advantages(found["advantages"]))


if __name__ == "__main__":
    main()
