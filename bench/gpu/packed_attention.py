"""Attention of packed rows on a GPU, form by form: `python bench/gpu/packed_attention.py`. Not yet run on a device.

Knows no model: queries, keys and values of Llama-3-8B's shape (32 heads, 8 of keys, width 128, bf16), forward and backward pass.
First the trial that decides whether torch's kernel for varied lengths serves, then milliseconds and MiB, in turn in one process.
`--toy` runs it on a CPU, on short rows, where the trial finds that the kernel does not serve: it shows that the script runs.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hone.kernels.packed_attention import Layout, by_piece, end_to_end
from hone.kernels.varlen_attention import Form, at_once, trial

TOY = "--toy" in sys.argv
HEADS, GROUPS, WIDTH, ROUNDS = (4, 2, 16, 1) if TOY else (32, 8, 128, 7)
BY = 64 if TOY else 1
SCALE = WIDTH**-0.5
TRIED = {"Llama 3": (32, 8, 128), "all heads": (16, 16, 64), "Gemma": (8, 1, 256), "Phi": (32, 32, 80)}
ROWS: dict[str, Layout] = {
    "8 x 200": end_to_end([200 // BY] * 8),
    "uneven, 16,384": end_to_end(
        [37, 411 // BY, 150 // BY, 8, 263 // BY, 90, *(n // BY for n in (2048, 523, 4000, 1000, 6000, 1854))]
    ),
    "8 x 2,048": end_to_end([2048 // BY] * 8),
    "8 x 2,048, window 512": end_to_end([2048 // BY] * 8).within(512 // BY),
    "2 x 8,192": end_to_end([8192 // BY] * 2),
    "a prompt of 2,048 for 8 answers of 512": Layout((2560 // BY, *[512 // BY] * 7), (0, *[2048 // BY] * 7), (0,) * 8),
}


def by_mask(query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, scale: float) -> Tensor:
    """What transformers does of such a row: a mask of all tokens by all, each head of keys repeated."""
    key_BHTD, value_BHTD = (one.repeat_interleave(HEADS // GROUPS, dim=1) for one in (key_BKTD, value_BKTD))
    mask_11TT = layout.sees(query_BHTD.device)[None, None]
    return scaled_dot_product_attention(query_BHTD, key_BHTD, value_BHTD, mask_11TT, scale=scale).transpose(1, 2)


def try_kernel(device: torch.device) -> Form | None:
    """Prints what each trial finds; the form that serves Llama 3's shape, or None."""
    served: Form | None = None
    for name, (heads, groups, width) in TRIED.items():
        forms: dict[str, Form] = {"at once": at_once, "at once, heads repeated": partial(at_once, repeats=heads // groups)}
        for said, form in forms.items():
            for window in (0, 7):
                fault = trial(form, device, torch.bfloat16, (heads, groups, width), window)
                print(f"{name:<12}{said:<26}window {window}: {fault or 'as by pieces'}", flush=True)
                if name == "Llama 3" and not window and not fault:
                    served = served or form
    return served


def measure(form: Form, layout: Layout, device: torch.device) -> tuple[float, float]:
    """Milliseconds of a forward and backward pass, and MiB that it adds at its peak."""
    sizes = (HEADS, GROUPS, GROUPS)
    inputs = [torch.randn(1, layout.tokens, heads, WIDTH, dtype=torch.bfloat16, device=device) for heads in sizes]
    turned = [one.transpose(1, 2).requires_grad_() for one in inputs]
    gradient = torch.randn_like(inputs[0])
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    held, started = torch.cuda.memory_allocated() if on_gpu else 0, time.perf_counter()
    torch.autograd.grad(form(*turned, layout, SCALE), turned, gradient)
    if on_gpu:
        torch.cuda.synchronize()
    taken = 1e3 * (time.perf_counter() - started)
    return taken, (torch.cuda.max_memory_allocated() - held) / 2**20 if on_gpu else 0.0


def told(measured: Callable[[], tuple[float, float]]) -> str:
    """Medians, or that memory did not suffice."""
    try:
        found = [measured() for _ in range(ROUNDS + 2)][2:]  # the first warm up
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return f"{'out of memory':>22}"
    return "".join(f"{statistics.median(column):>11.2f}" for column in zip(*found, strict=True))


def main() -> None:
    """The trials, then one line a row of tokens."""
    if not TOY and not torch.cuda.is_available():
        raise SystemExit("this measures a GPU, and torch sees none; --toy shows on a CPU that it runs")
    device = torch.device("cpu") if TOY else torch.device("cuda", 0)
    print(f"{'a CPU: a toy' if TOY else torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    served = try_kernel(device)
    forms: dict[str, Form] = {**({"at once": served} if served else {}), "by piece": by_piece, "by mask": by_mask}
    print(f"{'row':<40}" + "".join(f"{name + ' ms':>11}{'MiB':>11}" for name in forms))
    for name, layout in ROWS.items():
        cells = [told(partial(measure, form, layout, device)) for form in forms.values()]
        print(f"{name:<40}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
