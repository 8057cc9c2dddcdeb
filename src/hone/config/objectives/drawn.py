"""Settings of learning from answers which the model that learns has drawn.

Does not know how they are drawn nor scored.
"""

from __future__ import annotations

from typing import Literal

from hone.config.objectives.referenced import Referenced
from hone.config.objectives.routed import Routed
from hone.config.section import Section, knob


class Drawing(Section):
    """What all share that learn from answers which the model that learns has drawn."""

    rollout_batch_size: int | None = knob(
        None,
        "Answers that a process draws at once; all of its answers of a step where left out. Lower it where drawing runs out of "
        "memory; the answers stay the same.",
        level="advanced",
        ge=1,
        example="16",
    )
    rollout_server: str | None = knob(
        None,
        "A vLLM server that draws the answers, in place of the model that is trained: on a GPU of its own. It runs the same base "
        "with --enable-lora, and takes over the adapter before each drawing, as a folder in output_dir that it must be able to "
        "read. Needs finetuning_type: lora, top_p 1 and top_k 0.",
        level="advanced",
        example="http://localhost:8000",
    )
    rollout_timeout: float = knob(
        600.0,
        "Longest that rollout_server may take for one answer.",
        unit="seconds",
        level="advanced",
        gt=0,
    )
    sync_check_steps: int = knob(
        100,
        "Steps between two checks that the engine which draws runs the present policy: the log-probs of both are compared. It is "
        "done at the start in any case; 0 leaves out the later ones.",
        unit="steps",
        level="advanced",
        ge=0,
    )
    sync_check_bound: float = knob(
        0.1,
        "Mean difference of a drawn token's log-prob, in nats, beyond which the check ends the run. Rounding in bf16 "
        "gives about 0.01.",
        level="advanced",
        gt=0,
    )


class OwnAnswers(Referenced, Drawing, Routed):
    """What all share that learn by rewards from answers which the model that learns has drawn."""

    reward_timeout: float = knob(
        60.0,
        "Longest a reward function of your own, or a reward model behind HTTP, may take for a process's answers of a step. A "
        "function is stopped then, and the run too; a server is asked again first.",
        unit="seconds",
        gt=0,
    )


BUILTIN_REWARDS = ("exact_match", "numeric", "format", "length", "json")
"""Rewards that need no function of the user's."""


class Grpo(OwnAnswers):
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


class Ppo(OwnAnswers):
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
