"""Settings of what is learned from a sample: the kind of training and its numbers.

Does not know the model or the data's files.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob


class _Likelihood(Section):
    """What all that learn by cross-entropy share."""

    moe_aux_loss_coef: float | None = knob(
        None,
        "What the router's balance loss of a mixture of experts is multiplied by, so that its experts stay evenly used. "
        "Left out, the model's own config decides; 0 leaves the loss out. It is computed for each sequence by itself, so "
        "that batch size and packing change nothing; eval_loss is without it. 0.001 is usual; set it for long full training.",
        level="advanced",
        ge=0,
        example="0.001",
    )


class Sft(_Likelihood):
    """Learn the answers of conversations."""

    kind: Literal["sft"] = "sft"
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


class Pretrain(_Likelihood):
    """Learn to continue plain text."""

    kind: Literal["pretrain"] = "pretrain"


class Referring(_Likelihood):
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
    ref_model: str | None = knob(
        None,
        "Folder or hub id of the reference model. Left out, it is the base without the adapter, or a frozen copy of the model "
        "where every weight learns.",
        example="meta-llama/Llama-3.1-8B-Instruct",
    )
    ref_model_adapters: tuple[str, ...] = knob(
        (), "Adapters on top of ref_model, applied in this order.", level="advanced", example="saves/llama3-8b/lora/sft"
    )
    ref_model_quantization_bit: Literal[4, 8] | None = knob(
        None, "Holds ref_model's weights in this many bits, where it would not fit.", unit="bits", level="advanced"
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


Objective = Sft | Pretrain | Preference | Kto
