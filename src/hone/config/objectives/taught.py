"""Settings of learning from a teacher: on the rows' answers and on the student's own.

Does not know the other kinds of learning, the model or the data's files.
"""

from __future__ import annotations

from typing import Literal

from hone.config.objectives.drawn import Drawing
from hone.config.objectives.routed import Routed
from hone.config.section import Section, knob


class Taught(Section):
    """What all share that learn a larger model's distribution."""

    teacher_model: str | None = knob(
        None,
        "Folder or hub id of the model that is learned from. Its tokenizer must be the same. It is held beside the model that "
        "learns, and reads the same rows.",
        example="Qwen/Qwen3-32B",
    )
    teacher_model_adapters: tuple[str, ...] = knob(
        (), "Adapters on top of teacher_model, applied in this order.", level="advanced", example="saves/qwen3-32b/lora/sft"
    )
    teacher_model_quantization_bit: Literal[4, 8] | None = knob(
        None, "Holds the teacher's weights in this many bits, where it would not fit.", unit="bits", level="advanced"
    )
    distill_loss: Literal["forward_kl", "reverse_kl", "js"] = knob(
        "forward_kl",
        "How far the two distributions are apart. forward_kl, KL(teacher || student): the student covers all that the teacher "
        "may say (Hinton et al. 2015). reverse_kl, KL(student || teacher): it says nothing that the teacher would not, and may "
        "say less (Gu et al. 2023). js: between the two, see distill_beta. With stage: distill, eval_loss is the learned loss, "
        "with the plain cross-entropy beside it as eval_nll_loss; with stage: gkd, eval_distill_loss is how far they are apart "
        "at each token of answers that the student draws.",
    )
    distill_beta: float = knob(
        0.5,
        "Generalised Jensen-Shannon: beta KL(teacher || m) + (1 - beta) KL(student || m) with the mixture m = beta teacher + "
        "(1 - beta) student (Agarwal et al. 2023). Near 0 it is like forward_kl, near 1 like reverse_kl.",
        gt=0,
        lt=1,
        level="advanced",
    )
    distill_temperature: float = knob(
        1.0,
        "Flattens both distributions before they are compared, which shows more of the teacher's second thoughts; the divergence "
        "is multiplied by its square, so that it weighs the same. 2 is usual where it is not 1.",
        gt=0,
        level="advanced",
    )
    distill_top_k: int | None = knob(
        None,
        "Compares only the teacher's likeliest tokens, and all others as one. The tail of a teacher is mostly noise, which a "
        "small student need not copy; it still learns how much the others have together. Left out, every token is compared.",
        gt=0,
        unit="tokens",
        level="advanced",
        example="64",
    )


class Gkd(Taught, Drawing, Routed):
    """Learn a larger model's distribution at each token of one's own answers."""

    kind: Literal["gkd"] = "gkd"
    gkd_lambda: float = knob(
        0.5,
        "Share of the prompts that the model which learns answers itself, each by chance; of the others the row's own last "
        "answer is learned. 1 learns from own answers alone, and rows need none; 0 is distillation on the rows' last answers "
        "(Agarwal et al. 2023, algorithm 1).",
        ge=0,
        le=1,
    )
