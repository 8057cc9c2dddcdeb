"""Is the exported model the trained one? Logits of base + adapter against those of the folder, loaded by plain transformers.

Does not know how the folder was made.

Axes: T token, V vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from hone.chat.codec import Codec
from hone.chat.encoded import IGNORE, Encoded
from hone.chat.message import Conversation, message
from hone.config.export import FEW_BITS, GGUF_TYPES
from hone.errors import ExportError
from hone.export.source import DTYPES, torch_name
from hone.models.forward import media_inputs
from hone.models.load import auto_class
from hone.models.quantize import freeze
from hone.models.score_head import NAME as SCORE
from hone.models.score_head import ScoreHead


@dataclass(frozen=True)
class Tolerance:
    """Most that may differ. difference: largest, in standard deviations of the logits; divergence: mean KL, in nats a token."""

    difference: float
    divergence: float


_FINE = {"F64": Tolerance(1e-3, 1e-6), "F32": Tolerance(1e-3, 1e-6), "F16": Tolerance(0.1, 1e-3), "BF16": Tolerance(0.5, 1e-2)}
_BITS = {8: Tolerance(1.0, 0.05), 6: Tolerance(2.0, 0.1), 5: Tolerance(3.0, 0.2), 4: Tolerance(5.0, 0.5), 3: Tolerance(9.0, 2.0)}
TOLERANCES = {
    **_FINE,
    **{code.lower(): _FINE[code] for code in ("F32", "F16", "BF16")},
    **{word: _BITS[max(3, int(re.search(r"\d", word)[0]))] for word in (*GGUF_TYPES[3:], *FEW_BITS)},
    "float8": _BITS[6],  # inputs are rounded too, to 4 bits of precision
}
"""By the number format of the exported weights, safetensors' name of it or a word of gguf_type. Both sides compute in fp32, so
that F32 differs by the order of sums alone (about 1e-5), and F16 and BF16 by one rounding of each weight: 2^-11 of it, 2^-8.

Below 16 bits the limits are wide enough for random weights, which lose more by rounding than trained ones: they find a tensor
in the wrong place or order, which makes another model, of several nats. How good a format is, the figures say."""

CARRIED = 0.1
"""Largest share of the adapter's effect that may be lost or added: a model without its adapter is near, but another one."""


def format_name(dtype: str) -> str:
    """Of a number format, for people: torch's name of safetensors', or the word itself."""
    return torch_name(dtype) if dtype in DTYPES else dtype


@dataclass(frozen=True)
class Parity:
    """What was measured, over every token of the texts.

    max_difference: of one logit; spread: standard deviation of the reference's logits; divergence: mean KL(trained, exported) in
    nats; top1: share of tokens where both name the same likeliest next token. None where no adapter changes anything: effect,
    mean KL(trained, base), and carried, how much of the adapter's change of the logits is in the exported model: 1 is all of it,
    0 the bare base, less than 1 also where a coarse number format rounds small changes away. wrong: weights that differ by more
    than rounding, and in how many rows. Of a model with a value head: score_difference, the largest of one value, and
    score_spread, the standard deviation of the reference's; a value sums over the hidden state as a logit does, and has its
    tolerance. misread: prompts of which the exported tokenizer gives other ids. loss: mean negative log-prob of the tokens to be
    learned of the rows that were given, in nats, of the trained model and of the exported one.
    """

    max_difference: float
    spread: float
    divergence: float
    top1: float
    num_tokens: int
    dtype: str
    effect: float | None = None
    carried: float | None = None
    wrong: dict[str, int] = field(default_factory=dict)
    score_difference: float | None = None
    score_spread: float | None = None
    misread: tuple[str, ...] = ()
    loss: tuple[float, float] | None = None

    @property
    def passed(self) -> bool:
        """Within the tolerance of the number format; a logit that is not a number is never within."""
        allowed = TOLERANCES[self.dtype]
        near = self.max_difference <= allowed.difference * self.spread and self.divergence <= allowed.divergence
        if self.score_difference is not None and self.score_spread is not None:
            near = near and self.score_difference <= allowed.difference * self.score_spread
        near = near and not self.misread
        return near and not self.wrong and (self.carried is None or abs(self.carried - 1) <= CARRIED)

    @property
    def format(self) -> str:
        """The number format, for people."""
        return format_name(self.dtype)

    def __str__(self) -> str:
        allowed = TOLERANCES[self.dtype]
        figures = (
            f"largest logit difference {self.max_difference:.3g} (allowed {allowed.difference * self.spread:.3g}), "
            f"KL {self.divergence:.3g} nats (allowed {allowed.divergence:.3g}), same first choice {100 * self.top1:.2f} %, "
            f"over {self.num_tokens} tokens"
        )
        effect = ""
        if self.effect is not None and self.carried is not None:
            effect = f"; {100 * self.carried:.2f} % of the adapter's own effect (KL {self.effect:.3g}) is in it"
        if self.score_difference is not None and self.score_spread is not None:
            effect += f"; largest difference of scores {self.score_difference:.3g} (their spread is {self.score_spread:.3g})"
        if self.loss is not None:
            before, after = map(math.exp, self.loss)
            effect += f"; perplexity of the rows {before:.4g} trained, {after:.4g} exported"
        if self.misread:
            effect += f"; the exported tokenizer gives other ids for {len(self.misread)} prompts: {self.misread[0]!r}"
        if self.wrong:
            named = ", ".join(f"{name} ({rows} rows)" for name, rows in list(self.wrong.items())[:5])
            effect += f"; {len(self.wrong)} weights differ by more than rounding: {named}"
        return f"parity {'passed' if self.passed else 'FAILED'} ({self.format}): {figures}{effect}"

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


def probe_prompts(codec: Codec) -> dict[str, list[int]]:
    """Prompts as text and as the ids that the model reads; no answer stands in them, behind which a codec begins a new token."""
    asked = (
        *(
            "What is the capital of France?",
            "  two  spaces, 12345 + 6.7 = ?\n\n\tdef f(x):\n    return x  # ok",
            "I'VE he'll we're",
        ),
        *("\u4f60\u597d\uff0c\u4e16\u754c\uff01 2026\u5e74", "na\u00efve \u0441\u043b\u043e\u0432\u043e \U0001f600", "x"),
    )
    talks = [Conversation((message("user", text),)) for text in asked]
    talks.append(Conversation((message("system", "Be brief."), message("user", asked[0]))))
    return {codec.template.render(talk, prompt=True).text: codec.prompt(talk) for talk in talks}


def loss_of(logits_TV: Tensor, row: Encoded) -> tuple[float, int]:
    """Sum of the negative log-probs of the tokens of a row that are to be learned, and how many they are."""
    labels_T = torch.from_numpy(row.labels[1:].astype("int64"))
    learned_T = labels_T != IGNORE
    logprobs_TV = logits_TV[:-1][learned_T].log_softmax(-1)
    return -logprobs_TV.gather(-1, labels_T[learned_T].unsqueeze(-1)).sum().item(), int(learned_T.sum())


@torch.inference_mode()
def logits_of(module: nn.Module, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """The logits of every text, fp32 on the CPU, [T, V] each; of a head that scores texts the scores at every token, [T, C]."""
    if module.get_output_embeddings() is None:
        return _scores_of(module, texts)
    return [module(input_ids=torch.tensor([ids], device=module.device)).logits[0].float().cpu() for ids in texts]


@torch.inference_mode()
def logits_of_row(module: nn.Module, row: Encoded) -> Tensor:
    """The same of a row of data, [T, V], with the pictures and sounds that it shows."""
    ids_1T = torch.tensor([row.ids.tolist()], device=module.device)
    return module(input_ids=ids_1T, **media_inputs(module, ids_1T, [row.shown.tensors()])).logits[0].float().cpu()


def _scores_of(module: nn.Module, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Of its logits the model itself gives those at the end of a text alone."""
    seen: list[Tensor] = []
    hook = module.get_submodule(_score_path(module)).register_forward_hook(lambda _, inputs, output: seen.append(output))
    try:
        for ids in texts:
            module(input_ids=torch.tensor([ids], device=module.device))
    finally:
        hook.remove()
    return [scores_1TC[0].float().cpu() for scores_1TC in seen]


def _score_path(module: nn.Module) -> str:
    """Of the head itself, also under an adapter that trains it."""
    return next(path for path, _ in module.named_modules() if path.rpartition(".")[-1] == SCORE)


def values_of(module: nn.Module, texts: Sequence[Sequence[int]], head: nn.Module) -> list[Tensor]:
    """The number that `head` gives at every token, fp32 on the CPU, [T] each, of the hidden states that the output head sees."""
    seen: list[Tensor] = []
    hook = module.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        logits_of(module, texts)
    finally:
        hook.remove()
    with torch.inference_mode():
        return [head(hidden_1TD.float())[0].cpu() for hidden_1TD in seen]


def compare(
    trained: list[Tensor],
    exported: list[Tensor],
    *,
    dtype: str,
    base: list[Tensor] | None = None,
    wrong: dict[str, int] | None = None,
) -> Parity:
    """Measure `exported` against `trained`, logits [T, V] text by text.

    dtype: of the exported weights; base: without adapter; wrong: see Parity.

    Raises: ExportError where the vocabularies differ.
    """
    if trained[0].shape != exported[0].shape:
        raise ExportError(
            f"the exported model gives logits of shape {list(exported[0].shape)}, the trained one {list(trained[0].shape)}: "
            "their vocabularies differ"
        )
    one_TV, other_TV = torch.cat(trained), torch.cat(exported)
    base_TV = None if base is None else torch.cat(base)
    carried = None if base_TV is None else _carried(one_TV - base_TV, other_TV - base_TV, one_TV.std())
    return Parity(
        max_difference=(one_TV - other_TV).abs().max().item(),
        spread=one_TV.std().item(),
        divergence=_divergence(one_TV, other_TV),
        top1=(one_TV.argmax(-1) == other_TV.argmax(-1)).float().mean().item(),
        num_tokens=len(one_TV),
        dtype=dtype,
        effect=None if base_TV is None or carried is None else _divergence(one_TV, base_TV),
        carried=carried,
        wrong=wrong or {},
    )


def _carried(wanted_TV: Tensor, got_TV: Tensor, spread: Tensor) -> float | None:
    """How many times `wanted_TV` is in `got_TV`: its projection, blind to a shift of all logits of a token, as softmax is.

    None where what is wanted is no more than the noise of sums in fp32.
    """
    shifts = wanted_TV.shape[-1] > 1  # one score has no others to be shifted with
    wanted_TV = wanted_TV - wanted_TV.mean(-1, keepdim=True) * shifts
    if wanted_TV.square().mean().sqrt() <= 1e-5 * spread:
        return None
    got_TV = got_TV - got_TV.mean(-1, keepdim=True) * shifts
    return ((wanted_TV * got_TV).sum() / wanted_TV.square().sum()).item()


def _divergence(one_TV: Tensor, other_TV: Tensor) -> float:
    """Mean over the tokens of KL(one, other), in nats."""
    log_p, log_q = one_TV.log_softmax(-1), other_TV.log_softmax(-1)
    # Rounding can bring a divergence of nothing below zero; a NaN must stay one, so it stands first.
    return max((log_p.exp() * (log_p - log_q)).sum(-1).mean().item(), 0.0)


def load_plain(folder: Path, device: torch.device, *, trust_remote_code: bool, head: ScoreHead | None = None) -> nn.Module:
    """The exported folder through transformers alone, in fp32.

    Raises: ExportError where a weight of the model is not in its files: transformers would draw it at random.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    module, found = auto_class(head, config).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=trust_remote_code
    )
    absent = sorted({*found["missing_keys"], *map(str, found["mismatched_keys"])})
    if absent:
        raise ExportError(f"the exported model lacks {len(absent)} weights: {', '.join(absent[:8])}")
    freeze(module)  # bitsandbytes repacks weights on some processors, where rows must be a multiple of 64
    return module.to(device).eval()
