"""Our generation settings in the words of transformers, every number said, so that a model's own file changes none of them.

Does not know the model's weights.
"""

from __future__ import annotations

from transformers import GenerationConfig, PreTrainedModel

from hone.config.generate import GenerateConfig
from hone.errors import ModelError
from hone.inference.rollout import Sampling


def answer_length(settings: GenerateConfig, num_prompt: int, limit: int | None) -> int:
    """How many tokens may be drawn after a prompt of `num_prompt` tokens. limit: the longest text the model can hold, in tokens.

    Raises: ModelError where no token is left.
    """
    wanted = settings.max_new_tokens or settings.max_length - num_prompt
    if wanted <= 0:
        raise ModelError(
            f"the conversation has {num_prompt} tokens and max_length is {settings.max_length}, prompt and answer together: "
            "write a larger max_length, or max_new_tokens, or start a new conversation"
        )
    if limit is None:
        return wanted
    if num_prompt >= limit:
        raise ModelError(
            f"the conversation has {num_prompt} tokens and the model can hold {limit}: start a new conversation, or stretch the "
            "model with rope_scaling"
        )
    return min(wanted, limit - num_prompt)


def generation_config(
    settings: GenerateConfig, *, num_new: int, stop_ids: tuple[int, ...], pad_id: int | None
) -> GenerationConfig:
    """The settings for `generate`. num_new: most tokens drawn; stop_ids: any of them ends the answer."""
    drawn = settings.do_sample
    return GenerationConfig(
        do_sample=drawn,
        # Greedy choice ignores these three; transformers' neutral values keep it from warning that it does.
        temperature=settings.temperature if drawn else 1.0,
        top_p=settings.top_p if drawn else 1.0,
        top_k=settings.top_k if drawn else 50,
        num_beams=settings.num_beams,
        repetition_penalty=settings.repetition_penalty,
        length_penalty=settings.length_penalty,
        max_new_tokens=num_new,
        eos_token_id=list(stop_ids),
        pad_token_id=pad_id if pad_id is not None else stop_ids[0],
        use_cache=True,
    )


def rollout_sampling(settings: GenerateConfig, *, stop_ids: tuple[int, ...], pad_id: int) -> Sampling:
    """The settings for answers that are learned from."""
    return Sampling(settings.max_new_tokens, stop_ids, pad_id, settings.temperature, settings.top_p, settings.top_k)


def quiet_routers(causal: PreTrainedModel) -> bool:
    """Let no router's balance loss be computed, which transformers 5.23 cannot where a cache holds the tokens before.

    Whether the config had turned it on.
    """
    text = causal.config.get_text_config()
    turned_on = bool(text.to_dict().get("output_router_logits"))
    if turned_on:
        text.output_router_logits = False
    return turned_on
