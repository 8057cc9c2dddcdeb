"""Losses of a trained token other than minus its log-prob: DFT, EAFT, ASFT and label smoothing.

Pure formulas over numbers of a token's distribution; does not know models, batches or settings.

Axes: N token, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

EAFT_TOP, EAFT_SCALE = 20, 3.0
"""How many of the likeliest tokens the entropy is of, and what it is divided by: about log 20, its largest."""


def dft(logprob_N: Tensor) -> Tensor:
    """Dynamic fine-tuning: -sg(p) log p, fp32 [N], with p the token's own probability and sg a stop of the gradient.

    Wu et al. 2025 (arXiv 2508.05629), eq. 9. Its gradient is that of -p: a token which the model thinks unlikely is hardly
    learned. Its value falls towards 0 for the likeliest tokens and the least likely alike, so it says little of progress.
    """
    return -logprob_N.detach().exp() * logprob_N


def asft(logprob_N: Tensor, kl_N: Tensor, alpha: float) -> Tensor:
    """Anchored fine-tuning: dft + alpha KL(reference || policy), fp32 [N].

    Zhu et al. 2025 (arXiv 2509.23753), section 4, with the divergence in the direction of the authors' code (commit c2adb5d of
    zhuchichi56/ASFT) and of LLaMA-Factory. kl_N: over the whole vocabulary, at each token.
    """
    return dft(logprob_N) + alpha * kl_N


def eaft(logprob_N: Tensor, entropy_N: Tensor, alpha: float) -> Tensor:
    """Entropy-adaptive fine-tuning: -(H / 3)^alpha log p, fp32 [N], without gradient through H.

    Diao et al. 2026 (arXiv 2601.02151), with H of `top_entropy` as in the authors' code and LLaMA-Factory. Where the model is
    sure (H near 0) and the token says otherwise, little is learned and so little forgotten. alpha 0 is the plain loss.
    """
    return -(entropy_N.detach() / EAFT_SCALE).pow(alpha) * logprob_N


def top_entropy(logits_NV: Tensor, num: int = EAFT_TOP) -> Tensor:
    """Entropy in nats of the `num` largest logits alone, as if there were no others; fp32 [N], at most log num."""
    logprobs_NK = logits_NV.topk(min(num, logits_NV.shape[-1]), dim=-1).values.log_softmax(-1)
    return -(logprobs_NK.exp() * logprobs_NK).sum(-1).clamp(max=0)


def smoothed(logprob_N: Tensor, mean_logprob_N: Tensor, share: float) -> Tensor:
    """Label smoothing: -(1 - share) log p - share (mean of log q over the vocabulary), fp32 [N].

    Szegedy et al. 2016, section 7, with a uniform prior over all V ids of the head, as Hugging Face's LabelSmoother has it.
    """
    return -(1 - share) * logprob_N - share * mean_logprob_N
