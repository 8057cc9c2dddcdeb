"""Settings of what is learned from a sample: the kind of training and its numbers.

Does not know the model or the data's files.
"""

from __future__ import annotations

from typing import Literal

from hone.config.objectives.drawn import BUILTIN_REWARDS, Grpo, Ppo
from hone.config.objectives.referenced import Referenced
from hone.config.objectives.routed import Routed
from hone.config.objectives.taught import Gkd, Taught
from hone.config.objectives.texts import Classify, Embed, Rerank
from hone.config.section import Section, knob

__all__ = [
    "BUILTIN_REWARDS",
    "Classify",
    "Distill",
    "Embed",
    "Gkd",
    "Grpo",
    "Kto",
    "Objective",
    "Ppo",
    "Preference",
    "Pretrain",
    "Rerank",
    "Reward",
    "Sft",
]


class _Answers(Routed):
    """What all that learn the answers of conversations share."""

    train_on_prompt: bool = knob(
        False,
        "Learns the questions and system prompts too, not the answers alone. For models that shall also write like your users.",
        level="advanced",
    )
    mask_history: bool = knob(
        False,
        "Learns only the last answer of each conversation. Turn it on where the earlier answers are of another hand, "
        "or where every conversation is repeated with one more answer.",
    )


class _Smoothed(Routed):
    """What all that learn the data's own tokens share."""

    label_smoothing_factor: float = knob(
        0.0,
        "Share of each trained token's loss that goes to all words of the vocabulary alike, so that the model does not become "
        "too sure. 0.1 is usual. eval_loss is without it.",
        ge=0,
        lt=1,
        level="advanced",
        example="0.1",
    )


class Sft(_Answers, _Smoothed, Referenced):
    """Learn the answers of conversations."""

    kind: Literal["sft"] = "sft"
    sft_loss: Literal["cross_entropy", "dft", "asft", "eaft"] = knob(
        "cross_entropy",
        "What is learned of a token. cross_entropy: all alike. dft: each weighed by its own probability, so that unlikely tokens "
        "change the model little (Wu et al. 2025). asft: dft held near a frozen reference, see asft_alpha (Zhu et al. 2025). "
        "eaft: each weighed by how unsure the model is, so that it forgets less (Diao et al. 2026). The loss that is logged is "
        "the one that is learned, with the plain one beside it as nll_loss; eval_loss is always the plain cross-entropy, as that "
        "of dft falls for the worst tokens too and would choose a wrong checkpoint. LLaMA-Factory evaluates the learned one.",
        level="advanced",
    )
    asft_alpha: float = knob(
        0.1,
        "What the divergence from the reference (see ref_model), KL(reference || model), is multiplied by. Larger holds the "
        "model nearer.",
        ge=0,
        level="advanced",
    )
    eaft_alpha: float = knob(
        1.0,
        "Power of the weight, the entropy of the 20 likeliest tokens over 3. Larger leaves out more; 0 is the plain loss.",
        ge=0,
        level="advanced",
    )


class Pretrain(_Smoothed):
    """Learn to continue plain text."""

    kind: Literal["pretrain"] = "pretrain"


class Reward(Section):
    """Learn to score answers from pairs of a better and a worse one."""

    kind: Literal["reward"] = "reward"


class Referring(Routed, Referenced):
    """What all share that hold the model against a reference which never learns."""

    pref_beta: float = knob(
        0.1,
        "How strongly the model is held to its reference: what log-ratios are multiplied by to be rewards. Lower it to let the "
        "model move farther. orpo: weight of the odds ratio, 0.1 is usual; simpo wants 2 to 10; ipo's regularisation (tau).",
        gt=0,
    )
    pref_ftx: float = knob(
        0.0,
        "Weight of plain learning of the good answers beside the preference (mean loss of their tokens). 1 or less keeps "
        "the model from making good and bad answers less likely together.",
        ge=0,
        example="0.1",
    )
    precompute_ref: bool = knob(
        False,
        "Computes the reference's log-probs once, before training, and keeps them in the token cache: no second model stays in "
        "memory and no second pass is made each step. The numbers are the same.",
    )


class Preference(Referring):
    """Learn which of two answers is the better one."""

    kind: Literal["preference"] = "preference"
    pref_loss: Literal["sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo", "robust", "cpo"] = knob(
        "sigmoid",
        "What is learned of a pair. With a reference: sigmoid (DPO), hinge (SLiC), ipo (no reward without bound), robust (labels "
        "that are sometimes wrong, see dpo_label_smoothing), kto_pair (each answer against the other side's divergence). Without "
        "one, which saves a pass: orpo, simpo, cpo.",
    )
    dpo_label_smoothing: float = knob(
        0.0,
        "Share of the pairs that are taken to be the wrong way round: with sigmoid the loss becomes cautious, with robust it is "
        "corrected for them. 0.1 is usual for noisy data.",
        ge=0,
        lt=0.5,
        example="0.1",
    )
    simpo_gamma: float = knob(
        0.5, "With simpo, the margin that the chosen answer's reward must have. Higher pulls the two apart more.", ge=0
    )
    pref_bco_weight: float = knob(
        0.0,
        "Weight of the loss of a binary classifier (BCO) that is mixed in: chosen answers above the mean reward of the step, "
        "rejected ones below. Learns from how good each answer is, not from the pair alone; costs one more pass.",
        ge=0,
        level="advanced",
    )
    ld_alpha: float | None = knob(
        None,
        "Counts the tokens of the longer answer beyond the length of the shorter only this much (LD-DPO), for the model and its "
        "reference, so that longer answers do not win by length. 0.5 is usual where answers grow too long.",
        ge=0,
        le=1,
        level="advanced",
        example="0.5",
    )


class Kto(Referring):
    """Learn from answers that somebody called good or bad."""

    kind: Literal["kto"] = "kto"
    kto_chosen_weight: float = knob(
        1.0,
        "Weight of a good answer's loss. Where good and bad ones are not as many, choose the two weights so that (good answers x "
        "kto_chosen_weight) / (bad answers x kto_rejected_weight) is between 1 and 4/3.",
        gt=0,
    )
    kto_rejected_weight: float = knob(1.0, "Weight of a bad answer's loss; see kto_chosen_weight.", gt=0)


class Distill(_Answers, Taught):
    """Learn a larger model's distribution at each token of the answers."""

    kind: Literal["distill"] = "distill"
    distill_ce_weight: float = knob(
        0.0,
        "Share of the plain cross-entropy of the rows' own tokens in the loss; the divergence has the rest. 0 learns from the "
        "teacher alone.",
        ge=0,
        lt=1,
        example="0.5",
    )


Objective = Sft | Pretrain | Reward | Preference | Kto | Ppo | Grpo | Distill | Gkd | Embed | Classify | Rerank
