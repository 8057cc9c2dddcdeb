"""Every path that only a GPU has, against its reference on the device, in a minute: `python bench/gpu/checks.py`.

A line a check: "right", or WRONG and by how much; distances are |ours - reference| / |reference| by norm, reference in fp32.
A check that ends the process (an illegal access does) ends it alone: gpu/run.py goes on with the others. `--toy` runs them on a
CPU, where those that want a GPU are left out; `--after NAME ...` leaves out what was made. Not yet run on a device.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import product

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

from hone.kernels import float8, gated, lora_linear, rms_norm, rope, token_logprobs, varlen_attention
from hone.kernels.attach import OPERATIONS, attach
from hone.kernels.passes import Passes, has_triton, in_triton
from hone.models.offload import Shuttle
from hone.training.courier import courier_for

TOY = "--toy" in sys.argv
DEVICE = torch.device("cpu" if TOY else "cuda")
TOKENS, BY = (37, 16) if TOY else (4099, 1)
NEAR = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
Found = Iterator[tuple[str, float, float]]
"""What was compared, how far apart it is, and how far it may be."""


def drawn(*shape: int, dtype: torch.dtype = torch.float32, needs: bool = True) -> Tensor:
    """Random numbers on the device."""
    return torch.randn(shape, device=DEVICE).to(dtype).requires_grad_(needs)


def outcome(way: Callable[..., object], inputs: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """Results and gradients, in fp32; of copies of the inputs, in `dtype` where one is given."""
    copies = [one.detach().to(dtype or one.dtype).requires_grad_(one.requires_grad) for one in inputs]
    made = way(*copies)
    results = made if isinstance(made, tuple) else (made,)
    slopes = [torch.linspace(-1, 2, one.numel(), device=one.device).view(one.shape).to(one.dtype) for one in results]
    torch.autograd.backward(results, slopes)
    return [*(one.detach().float() for one in results), *(one.grad.float() for one in copies if one.requires_grad)]


def apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest distance of a pair; NaN counts as infinite."""
    far = [float((one - two).norm() / two.norm().clamp_min(1e-30)) for one, two in zip(ours, theirs, strict=True)]
    return max(one if one == one else float("inf") for one in far)


def against(said: str, ours: Callable[..., object], theirs: Callable[..., object], inputs: list[Tensor]) -> Found:
    """One comparison: ours may be twice as far from exact numbers as theirs is in the same type."""
    exact = outcome(theirs, inputs, torch.float32)
    bound = max(2 * apart(outcome(theirs, inputs), exact), 1e-5)
    yield said, apart(outcome(ours, inputs), exact), bound


def norms(passes: Passes) -> Found:
    """Widths of whole and odd sizes, each family's order of rounding, weights that learn or not."""
    for dtype, width, norm in product(NEAR, (4096 // BY, 1000, 7), (rms_norm.Norm(1e-5), rms_norm.Norm(1e-6, 1.0, False))):
        inputs = [drawn(3, 67, width, dtype=dtype), drawn(width, dtype=dtype)]
        ours, theirs = (lambda x, w, n=norm: rms_norm.fused(x, w, n, passes)), (lambda x, w, n=norm: rms_norm.reference(x, w, n))
        yield from against(f"{width} {dtype}", ours, theirs, inputs)


def products(passes: Passes) -> Found:
    """Each activation, halves of one tensor, odd sizes."""
    for dtype, act, width in product(NEAR, gated.ACTS, (14336 // BY, 1001)):
        inputs = [drawn(2, 33, 2 * width, dtype=dtype)]
        ours, theirs = (
            (lambda x, a=act: gated.fused(*x.chunk(2, -1), a, passes)),
            (lambda x, a=act: gated.reference(*x.chunk(2, -1), a)),
        )
        yield from against(f"{act} {width} {dtype}", ours, theirs, inputs)


def rotations(passes: Passes) -> Found:
    """Halves and pairs, a part of a head, heads that lie token by token or each by itself."""
    for dtype, turn, turned, lies in product(NEAR, (rope.Rope(), rope.Rope(True, True)), (128, 96), (True, False)):
        angles = [drawn(1, 65, turned, dtype=dtype, needs=False) for _ in range(2)]
        shapes = [(2, 65, num, 128) if lies else (2, num, 65, 128) for num in (32, 8)]
        inputs = [*(drawn(*shape, dtype=dtype) for shape in shapes), *angles]

        def call(way: Callable[..., object], *given: Tensor, lies: bool = lies) -> object:
            return way(*(one.transpose(1, 2) if lies else one for one in given[:2]), *given[2:])

        ours = lambda *given, t=turn, call=call: call(lambda *all_: rope.fused(*all_, t, passes), *given)  # noqa: E731
        theirs = lambda *given, t=turn, call=call: call(lambda *all_: rope.reference(*all_, t), *given)  # noqa: E731
        yield from against(f"{turned} of 128 {dtype}", ours, theirs, inputs)


def attention() -> Found:
    """The trial that decides whether torch's kernel serves; a fault is no error, as pieces do the same."""
    for shape, window in product([(32, 8, 128), (16, 16, 64), (8, 1, 256), (32, 32, 80)], (0, 7)):
        found = varlen_attention.trial(varlen_attention.at_once, DEVICE, torch.bfloat16, shape, window)
        yield f"{shape} window {window} {found or 'serves'}", float(bool(found)), 0.5


def eight_bits() -> Found:
    """The trial of products in 8 bits, then one at a real size."""
    found = float8.trial(DEVICE)
    yield f"trial {found or 'passes'}", float(bool(found)), 0.5
    bits, scale = float8.held(drawn(4096 // BY, 1024 // BY, needs=False))
    x = drawn(TOKENS, 1024 // BY, dtype=torch.bfloat16)
    ways = [lambda x, e=eight: float8._Linear.apply(x, bits, scale, None, torch.bfloat16, e) for eight in (True, False)]
    yield "4096 x 1024", apart(outcome(ways[0], [x]), outcome(ways[1], [x])), 0.06


def adapters() -> Found:
    """A LoRA layer in few products."""
    inputs = [
        drawn(TOKENS, 512, dtype=torch.bfloat16),
        drawn(16, 512, dtype=torch.bfloat16),
        drawn(384, 16, dtype=torch.bfloat16),
    ]
    weight = drawn(384, 512, needs=False)
    ours = lambda x, a, b: lora_linear.linear(x, weight.to(x.dtype), None, a, b, 2.0)  # noqa: E731
    yield from against("bfloat16", ours, lambda x, a, b: lora_linear.reference(x, weight.to(x.dtype), None, a, b, 2.0), inputs)


def logprobs() -> Found:
    """Log-probs chunk by chunk, head frozen and trained."""
    ids = torch.randint(32000 // BY, (TOKENS,), device=DEVICE)
    for learns in (False, True):
        head = drawn(32000 // BY, 256, dtype=torch.bfloat16, needs=learns)
        inputs = [drawn(TOKENS, 256, dtype=torch.bfloat16), head]
        ours = lambda h, w: token_logprobs.chunked(h, w, None, ids, chunk_elements=2**22)  # noqa: E731
        yield from against(
            f"head {'trained' if learns else 'frozen'}", ours, lambda h, w: token_logprobs.reference(h, w, None, ids), inputs
        )


def four_bits() -> Found:
    """Weights turned back by bitsandbytes' operations and by its layer, in turn and ahead; the same bits."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    from hone.adapters.ahead import Ahead, trial
    from hone.adapters.four_bits import FourBits

    layer = Linear4bit(512, 256, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4", device="cpu")
    layer.weight = Params4bit(torch.randn(256, 512), requires_grad=False, quant_type="nf4", compress_statistics=True)
    layer = layer.to(DEVICE)
    x = drawn(64, 512, dtype=torch.bfloat16, needs=False)
    numbers = FourBits(layer).turned_back(torch.bfloat16)
    yield "turned back", apart([x.float() @ numbers.float().T], [layer(x).float()]), 1e-2
    if not TOY:
        yield f"ahead {trial(layer, Ahead(DEVICE)) or 'passes'}", float(bool(trial(layer, Ahead(DEVICE)))), 0.5


def offloaded() -> Found:
    """Inputs of layers that wait in the host's memory, beside the same that stay: the same bits, for many times."""
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(512, 512), nn.GELU()) for _ in range(8))).to(DEVICE)
    run = Shuttle(DEVICE).around(checkpoint)

    def through(x: Tensor, way: Callable[..., Tensor]) -> Tensor:
        for layer in layers:
            x = way(layer, x, use_reentrant=False)
        return x

    for number in range(3):
        x = drawn(TOKENS, 512)
        yield (
            f"pass {number}",
            apart(outcome(lambda x: through(x, run), [x]), outcome(lambda x: through(x, checkpoint), [x])),
            1e-6,
        )


def courier() -> Found:
    """The trial of copies beside the computation."""
    yield "trial", float(courier_for(DEVICE) is None), 0.5


def model(family: str, near: float = 0.06, **more: int) -> Found:
    """A small model in bf16 with all operations fused, beside its plain twin: loss and gradients, which may be `near` apart."""
    sizes = {"vocab_size": 1000, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 8}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **sizes, num_key_value_heads=4, **more)
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).to(DEVICE).train()
    fused = copy.deepcopy(plain)
    attach(fused, OPERATIONS, triton=has_triton() and not TOY)
    ids = torch.randint(1000, (1, 77 if TOY else 777), device=DEVICE)
    losses = [module(input_ids=ids, labels=ids, use_cache=False).loss for module in (plain, fused)]
    for loss in losses:
        loss.backward()
    grads = [[one.grad.float() for one in module.parameters() if one.grad is not None] for module in (plain, fused)]
    yield "loss", abs(losses[1].item() / losses[0].item() - 1), 2e-3
    yield "gradients", apart(*grads[::-1]), near


def checks() -> dict[str, Callable[[], Found]]:
    """By name, those first that every run needs."""
    found: dict[str, Callable[[], Found]] = {
        "courier": courier,
        "attention": attention,
        "adapters": adapters,
        "logprobs": logprobs,
    }
    if has_triton() and not TOY:
        found |= {
            "norms": lambda: norms(in_triton("rms_norm")),
            "products": lambda: products(in_triton("gated")),
            "rotations": lambda: rotations(in_triton("rope")),
        }
    found |= {"llama": lambda: model("llama")}
    # a token to which two experts are nearly the same may go to the other
    found |= {"experts": lambda: model("qwen3_moe", 0.2, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=256)}
    found |= {"offloaded": offloaded, "eight_bits": eight_bits}
    return found | ({"four_bits": four_bits} if find_spec("bitsandbytes") else {})


FOR_A_GPU = ("attention", "eight_bits", "courier")


def main() -> int:
    """A line a check; 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--after", nargs="*", default=[], metavar="NAME", help="checks that were made")
    asked, wrong = parser.parse_args(), False
    for name, compare in checks().items():
        if name in asked.after or (TOY and name in FOR_A_GPU):
            continue
        print(f"begins {name}", flush=True)
        begun = time.perf_counter()
        try:
            found = list(compare())
        except Exception as problem:  # of whatever a device does that none had done before
            print(f"check {name}: WRONG: {type(problem).__name__}: {str(problem).splitlines()[0][:300]}", flush=True)
            wrong = True
            if "CUDA error" in str(problem):
                os._exit(3)  # nothing works in this process any more
            continue
        off = [one for one in found if not one[1] <= one[2]]
        said, far, bound = max(found, key=lambda one: one[1] / one[2])
        verdict = f"WRONG in {len(off)} of {len(found)}" if off else f"right, {len(found)} cases"
        verdict += f", nearest to its bound: {said}: {far:.1e} of {bound:.1e}"
        print(f"check {name}: {verdict}, {time.perf_counter() - begun:.1f} s", flush=True)
        wrong = wrong or bool(off)
    print("checks done", flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
