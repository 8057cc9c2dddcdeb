"""Settings of what is learned from a sample: the kind of training and its numbers.

Does not know the model or the data's files.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob
from hone.config.taught import Drawing, Gkd, Taught


class Referenced(Section):
    """What all share that may be held against a reference."""

    ref_model: str | None = knob(
        None,
        "Folder or hub id of the frozen model that the one which learns is held against. Left out, it is the base without the "
        "adapter, which takes no memory, or a copy of the base where every weight learns. Its tokenizer must be the same.",
        level="advanced",
        example="saves/llama3-8b/sft-merged",
    )
    ref_model_adapters: tuple[str, ...] = knob(
        (), "Adapters on top of ref_model, applied in this order.", level="advanced", example="saves/llama3-8b/lora/sft"
    )
    ref_model_quantization_bit: Literal[4, 8] | None = knob(
        None, "Holds the weights of ref_model in this many bits, where it would not fit.", unit="bits", level="advanced"
    )


class _OwnAnswers(Referenced, Drawing):
    """What all share that learn by rewards from answers which the model that learns has drawn."""

    reward_timeout: float = knob(
        60.0,
        "Longest a reward function of your own, or a reward model behind HTTP, may take for a process's answers of a step. A "
        "function is stopped then, and the run too; a server is asked again first.",
        unit="seconds",
        gt=0,
    )


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


class _Answers(_Likelihood):
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


class _Smoothed(_Likelihood):
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


class Embed(Section):
    """Learn vectors of texts, so that a query lies near the texts that answer it."""

    kind: Literal["embed"] = "embed"
    embed_pooling: Literal["last", "mean"] = knob(
        "last",
        "What a text's vector is: the hidden state of its last token, or the mean of all of them. Models that read from left to "
        "right are mostly trained with last; take the base's own where it is an embedding model already.",
    )
    embed_temperature: float = knob(
        0.05,
        "Cosines are divided by it before they are compared. Lower it, to 0.02 or 0.01, to mind the nearest wrong texts more.",
        gt=0,
    )
    embed_query_prompt: str = knob(
        "",
        "Text put before every query and before no other text; it is saved under prompts: query, where sentence-transformers "
        "finds it.",
        example='"Instruct: Find a text that answers the question.\\nQuery: "',
    )
    matryoshka_dims: tuple[int, ...] = knob(
        (),
        "Widths, with commas between them, at which the beginning of a vector is to serve alone: the loss is learned at each of "
        "them. Name the full width too, unless it is not to be used.",
        level="advanced",
        example="64,256,896",
    )
    matryoshka_weights: tuple[float, ...] = knob(
        (),
        "What the loss at each of matryoshka_dims is multiplied by; 1 each where left out.",
        level="advanced",
        example="1,1,1",
    )


class Referring(_Likelihood, Referenced):
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


BUILTIN_REWARDS = ("exact_match", "numeric", "format", "length", "json")
"""Rewards that need no function of the user's."""


class Grpo(_OwnAnswers):
    """Learn from one's own answers, by rewards that can be checked."""

    kind: Literal["grpo"] = "grpo"
    reward_funcs: tuple[str, ...] = knob(
        (),
        "What makes an answer good: exact_match (the reference to the letter), numeric (the reference's number, as GSM8K's "
        "after ####), format (a pattern), length (0, down to -1 near max_new_tokens), json (it can be parsed), or functions "
        "of your own: package.module:function or path/to/file.py:function. Such a function is called with keywords, lists "
        "with one item an answer: prompts, completions, completion_ids, answers and each further column of the data by its "
        "name; it returns a list of numbers.",
        example="numeric",
    )
    reward_weights: tuple[float, ...] = knob(
        (), "What each of reward_funcs is multiplied by before they are summed. Left out, each counts once.", example="1.0, 0.2"
    )
    reward_format_pattern: str | None = knob(
        None,
        "The regular expression that a whole answer must match for the reward called format; a dot matches line ends too. Left "
        "out: a thought that ends with </think>, and words after it.",
        level="advanced",
        example="'.*#### -?[0-9]+'",
    )
    num_generations: int = knob(
        8,
        "Answers drawn to each prompt; they are compared with each other. per_device_train_batch_size counts answers, not "
        "prompts: times gradient_accumulation_steps and processes it must be a multiple of this, and gives the prompts of a "
        "step.",
        ge=2,
    )
    num_iterations: int = knob(
        1,
        "Optimizer steps that learn from the same answers before new ones are drawn. More save drawing; then clipping matters.",
        level="advanced",
        ge=1,
    )
    beta: float = knob(
        0.0,
        "What the divergence from the model as it was at first is multiplied by. 0 leaves it out, and its forward pass too; 0.04 "
        "holds the model near its beginnings.",
        ge=0,
    )
    use_bias_correction_kl: bool = knob(
        False,
        "Weighs the divergence of each token by the policy's probability over that of the policy which drew it, so that its "
        "gradient is that of the true divergence (DeepSeek-V3.2). TRL does so by default.",
        level="advanced",
    )
    epsilon: float = knob(
        0.2, "How far the probability of a token may go down (and up, without epsilon_high) before it is not pushed on.", ge=0
    )
    epsilon_high: float | None = knob(
        None, "How far it may go up, where that is another bound: DAPO's clip-higher takes 0.28.", ge=0, example="0.28"
    )
    loss_type: Literal["grpo", "dapo", "dr_grpo"] = knob(
        "dapo",
        "What the sum over tokens is divided by: the tokens of the whole step (dapo), each answer's own (grpo: short answers "
        "weigh more a token), or the constant max_new_tokens (dr_grpo).",
    )
    importance_sampling_level: Literal["token", "sequence"] = knob(
        "token",
        "Whether the policy's change is measured for each token, or for the whole answer (sequence: GSPO).",
        level="advanced",
    )
    advantage_estimator: Literal["grpo", "rloo"] = knob(
        "grpo", "What a reward is compared with: its group's mean (grpo), or the mean of the group's other answers (rloo)."
    )
    scale_rewards: Literal["group", "batch", "none"] = knob(
        "group",
        "Whose standard deviation rewards are divided by: their group's, the whole step's, or none (Dr. GRPO). With rloo none.",
    )
    filter_groups: bool = knob(
        False, "Leaves out groups whose answers all have one reward: they say nothing, and would thin out the mean (DAPO)."
    )
    dynamic_sampling: bool = knob(
        False,
        "Draws answers to further prompts in place of groups whose answers all have one reward, until a step has as many groups "
        "as its batch size says (DAPO). num_train_epochs says how many steps there are; more prompts are used up by them.",
    )
    dynamic_sampling_max_draws: int = knob(
        10,
        "Drawings of a step at most, each of as many prompts as a step has; where they did not bring enough, the step learns "
        "from what there is, and it is said.",
        level="advanced",
        ge=2,
    )
    mask_truncated_completions: bool = knob(
        False, "Learns nothing from answers that max_new_tokens cut off. Their rewards still count in their group."
    )
    importance_sampling_correction: bool = knob(
        True,
        "Weighs each token by the policy's probability over the one it was drawn with (top_p, top_k, another engine's rounding).",
        level="advanced",
    )
    importance_sampling_cap: float = knob(2.0, "Largest such weight.", level="advanced", gt=0)


class Ppo(_OwnAnswers):
    """Learn from one's own answers, by the scores of a reward model."""

    kind: Literal["ppo"] = "ppo"
    reward_model: str | None = knob(
        None,
        "What scores the answers: the folder of an adapter of the same base (reward_model_type: lora), a whole model's folder "
        "or hub id (full), each with value_head.safetensors beside it as stage: rm writes it, or the URL of a server (api), "
        'which is sent {"model": ..., "messages": [texts of whole conversations]} and answers {"scores": [numbers]}.',
        example="saves/llama3-8b/lora/reward",
    )
    reward_model_type: Literal["lora", "full", "api"] = knob(
        "lora",
        "Whether reward_model is an adapter, switched on for scoring and taking hardly any memory, a second model, or a server.",
    )
    reward_model_adapters: tuple[str, ...] = knob(
        (),
        "Adapters on top of a whole reward_model, applied in this order; the value head is then the last one's.",
        level="advanced",
        example="saves/llama3-8b/lora/reward",
    )
    reward_model_quantization_bit: Literal[4, 8] | None = knob(
        None,
        "Holds the weights of a whole reward_model in this many bits, where it would not fit.",
        unit="bits",
        level="advanced",
    )
    reward_retries: int = knob(
        2,
        "Times a reward model behind HTTP is asked again where it cannot be reached, is late, or tells of an error of its own.",
        level="advanced",
        ge=0,
    )
    ppo_buffer_size: int = knob(
        1,
        "Steps' worth of answers that are drawn at once. per_device_train_batch_size x gradient_accumulation_steps x processes "
        "answers make an optimizer step; this many times as many are drawn and scored, then split among this many steps, "
        "anew in each of ppo_epochs. More gives rewards and advantages a steadier mean.",
        ge=1,
    )
    ppo_epochs: int = knob(
        4,
        "Times that what was drawn is learned from before new answers are drawn: ppo_buffer_size x ppo_epochs optimizer "
        "steps in all. max_steps, logging_steps and save_steps count optimizer steps. More save drawing; then clipping matters.",
        ge=1,
    )
    ppo_score_norm: bool = knob(
        False, "Takes the mean of all scores so far from each, and divides by their deviation. For scores of an unknown scale."
    )
    ppo_whiten_rewards: bool = knob(
        False, "Divides the rewards of all tokens drawn at once by their standard deviation. For rewards of very uneven size."
    )
    ppo_kl_coef: float = knob(
        0.2,
        "What an answer pays for each nat by which its log-prob is above that of the model as it was at first. Higher holds "
        "the model nearer to its beginnings; 0 leaves it out, and the reference's forward pass too.",
        ge=0,
    )
    ppo_kl_control: Literal["adaptive", "fixed"] = knob(
        "adaptive", "Whether ppo_kl_coef is steered so that the divergence comes to ppo_target, or stays as it is."
    )
    ppo_target: float = knob(
        6.0, "Divergence from the first model that ppo_kl_coef is steered to, in nats an answer: longer answers need more.", gt=0
    )
    ppo_kl_horizon: float = knob(
        10000.0,
        "Answers over which ppo_kl_coef is steered: a divergence a fifth off its target changes it by a fifth in this many.",
        level="advanced",
        gt=0,
    )
    ppo_gamma: float = knob(
        1.0, "What a later token's reward counts for an earlier one, for each token between.", level="advanced", ge=0, le=1
    )
    ppo_lambda: float = knob(
        0.95,
        "How far advantages trust what came in the end (1) over what the value head expected at the next token (0).",
        level="advanced",
        ge=0,
        le=1,
    )
    ppo_cliprange: float = knob(
        0.2,
        "How far the probability of a token may go up or down in a drawing before it is not pushed on.",
        level="advanced",
        ge=0,
    )
    ppo_cliprange_value: float = knob(
        0.2, "How far a token's value may move in a drawing before it is not pushed on.", level="advanced", ge=0
    )
    ppo_vf_coef: float = knob(0.1, "What the value head's loss is multiplied by beside the policy's.", level="advanced", ge=0)


Objective = Sft | Pretrain | Reward | Preference | Kto | Ppo | Grpo | Distill | Gkd | Embed
