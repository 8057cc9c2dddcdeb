"""What fused operations save on a CPU, each by itself and in whole steps: `python bench/fused_ops.py [ops steps experts]`.

Forms take turns in one process on one thread; figures are CPU seconds (`time.process_time`), medians of the rounds, and the
median of each round's ratio to the plain form. kept: bytes that the backward pass needs, counted once a storage, weights left
out. A form whose result is not the plain one's stops the script. `steps` trains a random Llama of 15 M weights (as wide as the
alpaca demo's) and one of SmolLM2-135M's shape on one packed row, forward, backward and no optimizer.

2026-11-30, AMD EPYC, one thread of 2 cores shared with other work (load 15 to 20), torch 2.13.0, transformers 5.23.0:

    alone, time of plain       fp32                bf16                kept
    rms_norm, frozen           0.23 to 0.63        0.67 to 0.77        1.00; bf16 0.50
    rms_norm, trained          0.36 to 0.53        0.75 to 0.84        0.50; bf16 0.33
    rope                       0.45 to 0.62        0.59 to 0.81        nothing either way
    gated                      0.67 to 1.06        1.24 to 1.30        0.67
    steps, all fused           0.96 to 1.00        0.99 to 1.01        LoRA 0.86, bf16 0.77 to 0.80; full 0.77 to 0.79

So on a CPU all three are on by themselves: a step takes the time it took and keeps less. A gated product in bf16 is slower by
itself, as its activation is computed twice, which a step does not show. torch's own rms_norm is no faster than plain.
`experts`: transformers' own choice, grouped, takes 0.09 to 1.08 of expert by expert and keeps less, so hone makes none.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hone.adapters.apply import attach as adapt
from hone.chat.encoded import Encoded
from hone.config.adapter import Full, Lora
from hone.data.batch import Batch, pack
from hone.kernels import gated, rms_norm, rope
from hone.kernels.attach import OPERATIONS, attach
from hone.models.policy import Policy

SHAPES = {"15M": (1000, 384, 1024, 6, 2, 64), "135M": (1000, 576, 1536, 9, 3, 64), "1B": (500, 2048, 8192, 32, 8, 64)}
"""Tokens, width, feed-forward width, heads, heads of keys, width of a head."""
MODELS = {
    "15M": {"vocab_size": 8192, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6},
    "134M": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
}  # fmt: skip
LENGTHS = {"15M": (156, 230, 90, 197, 75), "134M": (156, 90, 60)}
ROUNDS = {"ops": 15, "15M": 7, "134M": 5}


@dataclass
class Run:
    """Seconds of each round, forward and backward, and what the backward needs, in MiB."""

    forward: list[float]
    backward: list[float]
    kept: float = 0.0


def kept_bytes(work: Callable[[], object], weights: set[int]) -> int:
    """Bytes of the storages that the backward pass of `work` needs, without those of `weights`."""
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = work()  # held, so that no storage is used twice
    assert made is not None
    return sum(found.values())


def take_turns(ways: dict[str, Callable[..., object]], inputs: Callable[[], tuple[Tensor, ...]], rounds: int) -> dict[str, Run]:
    """Every way in every round, on the round's inputs; the first round compares them and is not counted."""
    runs, wanted = {name: Run([], []) for name in ways}, []
    for number in range(rounds + 1):
        for name, way in ways.items():
            torch.manual_seed(number)
            given = inputs()
            if not number:
                fixed = {one.untyped_storage().data_ptr() for one in given if not one.requires_grad}
                runs[name].kept = kept_bytes(lambda given=given, way=way: way(*given), fixed) / 2**20
            start = time.process_time()
            made = way(*given)
            between = time.process_time()
            made = made if isinstance(made, tuple) else (made,)
            if not number:
                wanted = wanted or [one.detach() for one in made]
                assert all(torch.allclose(one, two, rtol=0.02, atol=0.02) for one, two in zip(made, wanted, strict=True)), name
            slopes = [torch.ones_like(one) for one in made]
            then = time.process_time()
            torch.autograd.backward(made, slopes)
            if number:
                runs[name].forward.append(between - start)
                runs[name].backward.append(time.process_time() - then)
    return runs


def show(title: str, runs: dict[str, Run]) -> None:
    """A line a way, its ratios to the first."""
    first, *_ = runs.values()
    whole = [sum(pair) for pair in zip(first.forward, first.backward, strict=True)]
    for name, run in runs.items():
        ratios = [sum(pair) / base for *pair, base in zip(run.forward, run.backward, whole, strict=True)]
        seconds = [statistics.median(part) * 1e3 for part in (run.forward, run.backward)]
        print(
            f"{title:<37}{name:<10}{seconds[0]:>9.2f} +{seconds[1]:>9.2f} ms{statistics.median(ratios):>7.2f}"
            f"{run.kept:>10.1f} MiB{run.kept / first.kept if first.kept else 1:>6.2f}",
            flush=True,
        )


def operations() -> None:
    """Each operation by itself."""
    norm, silu, turned = rms_norm.Norm(1e-5), "silu", rope.Rope()
    for dtype in (torch.float32, torch.bfloat16):
        for name, (tokens, width, wide, heads, fewer, head) in SHAPES.items():
            title = f"{name} {str(dtype).removeprefix('torch.')}"

            def normal(*shape: int, dtype: torch.dtype = dtype, needs: bool = True) -> Tensor:
                return torch.randn(shape).to(dtype).requires_grad_(needs)

            for trained in (False, True):
                ways = {
                    "plain": lambda x, w: rms_norm.reference(x, w, norm),
                    "torch's": lambda x, w, width=width: nn.functional.rms_norm(x, (width,), w, norm.eps),
                    "fused": lambda x, w: rms_norm.fused(x, w, norm),
                }
                given = lambda t=trained, w=width, n=tokens, f=normal: (f(1, n, w), f(w, needs=t))  # noqa: E731
                kind = "trained" if trained else "frozen"
                show(f"rms_norm, {kind}, {title}", take_turns(ways, given, ROUNDS["ops"]))
            ways = {"plain": lambda g, u: gated.reference(g, u, silu), "fused": lambda g, u: gated.fused(g, u, silu)}
            given = lambda w=wide, n=tokens, f=normal: (f(1, n, w), f(1, n, w))  # noqa: E731
            show(f"gated, {title}", take_turns(ways, given, ROUNDS["ops"]))

            def heads_given(n=tokens, a=heads, b=fewer, d=head, f=normal) -> tuple[Tensor, ...]:
                both = (f(1, n, a, d).transpose(1, 2), f(1, n, b, d).transpose(1, 2))
                return (*both, f(1, n, d, needs=False), f(1, n, d, needs=False))

            ways = {"plain": lambda *a: rope.reference(*a, turned), "fused": lambda *a: rope.fused(*a, turned)}
            show(f"rope, {title}", take_turns(ways, heads_given, ROUNDS["ops"]))


def model_of(name: str, dtype: torch.dtype, kind: str) -> nn.Module:
    """A random Llama, alike at each call; kind: lora or full."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", max_position_embeddings=4096, **MODELS[name])
    module = AutoModelForCausalLM.from_config(config, dtype=dtype)
    module.config.use_cache = False
    return module.train()


def row_of(name: str) -> Batch:
    """One packed row of which all is learned."""
    draw = np.random.default_rng(0)
    texts = [draw.integers(3, MODELS[name]["vocab_size"], length).astype(np.int32) for length in LENGTHS[name]]
    return pack([Encoded(ids, np.concatenate([[-100], ids[1:]]).astype(np.int32)) for ids in texts])


def steps() -> None:
    """Whole steps, with no operation fused, with two, and with all."""
    choices = {"plain": (), "not gated": ("rms_norm", "rope"), "all": OPERATIONS}
    for name in MODELS:
        batch = row_of(name)
        for dtype, kind in ((torch.float32, "lora"), (torch.float32, "full"), (torch.bfloat16, "lora")):
            base = model_of(name, dtype, kind)
            ways = {}
            for choice, operations in choices.items():
                module: PreTrainedModel = copy.deepcopy(base)
                attach(module, operations)
                trained = adapt(module, Lora() if kind == "lora" else Full(), base_name="random", trained_dtype=dtype)
                ways[choice] = Policy(trained)
            losses = {choice: policy.token_logprobs(batch).sum().item() for choice, policy in ways.items()}
            bound = 1e-5 if dtype == torch.float32 else 2e-3
            assert all(abs(loss / losses["plain"] - 1) < bound for loss in losses.values()), losses
            weights = {weight.untyped_storage().data_ptr() for policy in ways.values() for weight in policy.module.parameters()}
            runs = {choice: Run([], []) for choice in ways}
            for number in range(ROUNDS[name] + 1):
                for choice, policy in ways.items():
                    if not number:
                        work = lambda policy=policy, row=batch: policy.token_logprobs(row).sum()  # noqa: E731
                        runs[choice].kept = kept_bytes(work, weights) / 2**20
                        continue
                    start = time.process_time()
                    loss = policy.token_logprobs(batch).sum()
                    between = time.process_time()
                    loss.backward()
                    runs[choice].forward.append(between - start)
                    runs[choice].backward.append(time.process_time() - between)
                    policy.module.zero_grad()
            show(f"step, {name}, {kind}, {str(dtype).removeprefix('torch.')}", runs)


def experts() -> None:
    """How transformers multiplies the experts' matrices: expert by expert, and grouped, which is its own choice."""
    for dtype in (torch.float32, torch.bfloat16):
        for num, chosen, width, wide, tokens in ((8, 2, 256, 512, 512), (64, 8, 256, 128, 256)):
            config = AutoConfig.for_model(
                "qwen3_moe", vocab_size=99, hidden_size=width, moe_intermediate_size=wide, num_hidden_layers=1, head_dim=32,
                num_attention_heads=4, num_key_value_heads=2, num_experts=num, num_experts_per_tok=chosen,
            )  # fmt: skip
            module = AutoModelForCausalLM.from_config(config, dtype=dtype).train()
            assert config._experts_implementation == "grouped_mm", "it is transformers' own choice no more"
            layer = next(inner for inner in module.modules() if hasattr(inner, "_apply_gate"))
            indices, shares = torch.rand(tokens, num).topk(chosen).indices, torch.rand(tokens, chosen).to(dtype)

            def by(name: str, layer=layer, config=config, indices=indices, shares=shares) -> Callable[[Tensor], Tensor]:
                def run(x: Tensor) -> Tensor:
                    config._experts_implementation = name
                    return layer(x, indices, shares)

                return run

            for trained in (False, True):
                layer.requires_grad_(trained)
                given = lambda tokens=tokens, width=width, dtype=dtype: (torch.randn(tokens, width).to(dtype).requires_grad_(),)  # noqa: E731
                title = f"{num} experts, {chosen} each, {'trained' if trained else 'frozen'}, {str(dtype)[6:]}"
                show(title, take_turns({"eager": by("eager"), "grouped": by("grouped_mm")}, given, 5))


if __name__ == "__main__":
    parts = {"ops": operations, "steps": steps, "experts": experts}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="none for all")
    torch.set_num_threads(1)
    print(f"{'':<47}{'forward + backward':>24}{'ratio':>7}{'kept':>14}{'ratio':>6}")
    for part in parser.parse_args().parts or parts:
        parts[part]()
