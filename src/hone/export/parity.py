"""Is the exported model the trained one? Logits of base + adapter against those of the folder, loaded by plain transformers.

Does not know how the folder was made.

Axes: T token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from hone.chat.codec import Codec
from hone.chat.message import Conversation, message
from hone.errors import ExportError


@dataclass(frozen=True)
class Tolerance:
    """Most that may differ. difference: largest, in standard deviations of the logits; divergence: mean KL, in nats a token."""

    difference: float
    divergence: float


TOLERANCES = {
    "F64": Tolerance(1e-3, 1e-6),
    "F32": Tolerance(1e-3, 1e-6),
    "F16": Tolerance(0.1, 1e-3),
    "BF16": Tolerance(0.5, 1e-2),
}
"""By the number format of the exported weights. Both sides are computed in fp32, so that F32 differs by the order of sums alone
(about 1e-5) and the others by one rounding of each weight: 2^-11 of it in F16, 2^-8 in BF16."""


@dataclass(frozen=True)
class Parity:
    """What was measured, over every token of the texts.

    max_difference: of one logit; spread: standard deviation of the reference's logits; divergence: mean KL(trained, exported) in
    nats; top1: share of tokens where both name the same likeliest next token; effect: mean KL(trained, base), None where there is
    no adapter.
    """

    max_difference: float
    spread: float
    divergence: float
    top1: float
    num_tokens: int
    dtype: str
    effect: float | None = None

    @property
    def passed(self) -> bool:
        """Within the tolerance of the number format; a logit that is not a number is never within."""
        allowed = TOLERANCES[self.dtype]
        return self.max_difference <= allowed.difference * self.spread and self.divergence <= allowed.divergence

    def __str__(self) -> str:
        allowed = TOLERANCES[self.dtype]
        figures = (
            f"largest logit difference {self.max_difference:.3g} (allowed {allowed.difference * self.spread:.3g}), "
            f"KL {self.divergence:.3g} nats (allowed {allowed.divergence:.3g}), same first choice {100 * self.top1:.2f} %, "
            f"over {self.num_tokens} tokens"
        )
        effect = "" if self.effect is None else f"; the adapter itself moves KL by {self.effect:.3g}"
        return f"parity {'passed' if self.passed else 'FAILED'} ({self.dtype}): {figures}{effect}"

    def as_dict(self) -> dict[str, Any]:
        """For export_report.json."""
        return asdict(self) | {"passed": self.passed, "tolerance": asdict(TOLERANCES[self.dtype])}


def probe_texts(codec: Codec) -> list[list[int]]:
    """Ids of a few real conversations, prompts and answers, in several languages, as the model reads them."""
    turns = [
        ("What is the capital of France?", "The capital of France is Paris."),
        (
            "\u8bf7\u7528\u4e00\u53e5\u8bdd\u4ecb\u7ecd\u957f\u57ce\u3002",
            "\u957f\u57ce\u662f\u4e2d\u56fd\u53e4\u4ee3\u7684\u9632\u5fa1\u5de5\u7a0b\u3002",
        ),
        ("Write a Python function that adds two numbers.", "def add(a, b):\n    return a + b"),
        ("Wie viel ist 17 + 25?", "17 + 25 = 42. \U0001f600"),
    ]
    talks = [Conversation((message("user", asked), message("assistant", said))) for asked, said in turns]
    long = [part for asked, said in turns for part in (message("user", asked), message("assistant", said))]
    talks.append(Conversation(tuple(long)))
    return [encoded.ids.tolist() for encoded in codec.encode(talks)]


@torch.inference_mode()
def logits_of(module: nn.Module, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """The logits of every text, fp32 on the CPU, [T, V] each."""
    return [module(input_ids=torch.tensor([ids], device=module.device)).logits[0].float().cpu() for ids in texts]


def compare(trained: list[Tensor], exported: list[Tensor], *, dtype: str, base: list[Tensor] | None = None) -> Parity:
    """Measure `exported` against `trained`, logits [T, V] text by text. dtype: of the exported weights; base: without adapter.

    Raises: ExportError where the vocabularies differ.
    """
    if trained[0].shape != exported[0].shape:
        raise ExportError(
            f"the exported model gives logits of shape {list(exported[0].shape)}, the trained one {list(trained[0].shape)}: "
            "their vocabularies differ"
        )
    one_TV, other_TV = torch.cat(trained), torch.cat(exported)
    difference = (one_TV - other_TV).abs().max().item()
    return Parity(
        max_difference=difference,
        spread=one_TV.std().item(),
        divergence=_divergence(one_TV, other_TV),
        top1=(one_TV.argmax(-1) == other_TV.argmax(-1)).float().mean().item(),
        num_tokens=len(one_TV),
        dtype=dtype,
        effect=None if base is None else _divergence(one_TV, torch.cat(base)),
    )


def _divergence(one_TV: Tensor, other_TV: Tensor) -> float:
    """Mean over the tokens of KL(one, other), in nats."""
    log_p, log_q = one_TV.log_softmax(-1), other_TV.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()


def load_plain(folder: Path, device: torch.device, *, trust_remote_code: bool) -> nn.Module:
    """The exported folder through transformers alone, in fp32.

    Raises: ExportError where a weight of the model is not in its files: transformers would draw it at random.
    """
    module, found = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=trust_remote_code
    )
    absent = sorted({*found["missing_keys"], *map(str, found["mismatched_keys"])})
    if absent:
        raise ExportError(f"the exported model lacks {len(absent)} weights: {', '.join(absent[:8])}")
    return module.to(device).eval()
