"""Peak memory and time of each loss of a token over hidden states: `python bench/distribution.py [name ...]`, no name for all.

Knows no model: 2,000 positions of 64 numbers, two heads of 32,000 ids, two chunks of 1,000 positions each. Memory is counted in
chunks of logits in fp32 (122 MiB) beyond what was held before, each loss in a child process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from hone.config.objective import Distill
from hone.kernels import distribution, token_logprobs
from hone.objectives import sft
from hone.objectives.distill import taught
from hone.objectives.token_loss import Numbers

IDS, ROWS = 32_000, 1_000
CHUNK = IDS * ROWS


def losses(teacher: Callable[[slice], Tensor]) -> dict[str, Numbers | None]:
    """By name; None for the plain loss, which needs log-probs alone."""
    kinds = {
        "forward_kl": Distill(),
        "reverse_kl": Distill(distill_loss="reverse_kl"),
        "js": Distill(distill_loss="js", distill_temperature=2.0, distill_ce_weight=0.5),
        "forward_kl, top 64": Distill(distill_top_k=64),
    }
    weighed = {"dft": sft._by_probability, "eaft": sft._by_entropy(1.0), "asft": sft._anchored(teacher, 0.1)}
    return {"plain": None, **weighed, **{name: taught(teacher, settings) for name, settings in kinds.items()}}


def measure(name: str) -> None:
    """Print one loss's peak and time."""
    torch.manual_seed(0)
    hidden = torch.randn(2 * ROWS, 64, requires_grad=True)
    head, other = 0.1 * torch.randn(IDS, 64), 0.1 * torch.randn(IDS, 64)
    labels = torch.randint(IDS, (2 * ROWS,))
    numbers = losses(lambda part: hidden.detach()[part] @ other.T)[name]
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    if numbers is None:
        loss = token_logprobs.chunked(hidden, head, None, labels, chunk_elements=CHUNK).sum()
    else:
        stacked = lambda logits, part: torch.stack(numbers(logits, labels[part], part))  # noqa: E731
        loss = distribution.chunked(hidden, head, None, stacked, chunk_elements=CHUNK)[0].sum()
    loss.backward()
    held = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (4 * CHUNK)
    print(f"{name:<20}{held:>6.1f} chunks{time.monotonic() - started:>8.2f} s", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(sys.argv[2])
    else:
        for chosen in sys.argv[1:] or losses(lambda part: torch.zeros(0)):
            subprocess.run([sys.executable, __file__, "--one", chosen], check=True)
