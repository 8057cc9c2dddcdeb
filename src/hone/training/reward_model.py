"""Building the reward model of a run: an adapter beside the one that learns, or another model, each with a value head of its own.

Does not know what scores are good for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from hone import log
from hone.adapters.apply import attach_beside, with_adapter
from hone.adapters.folder import CONFIG, locate
from hone.chat.encoded import IGNORE, Encoded
from hone.config.model import ModelConfig
from hone.config.run import Run
from hone.data.batch import pack, pad
from hone.errors import ModelError
from hone.models.forward import find_causal
from hone.models.place import hub_name
from hone.models.policy import Policy
from hone.models.reference import Reference
from hone.models.tokenizer import load_tokenizer
from hone.models.value_head import (
    FILE,
    OLD_FILE,
    ValueHead,
    add_value_head,
    find_value_head,
    learned_by,
    load_value_head,
    with_value_head,
)
from hone.training.device import Device
from hone.training.reference import load_beside, other_model

NAME = "reward"
"""Of the adapter that scores."""


class RewardModel:
    """`RewardModel(judge, device, micro=4, pad_id=0)(talks)`: the value head's number at the last token of each conversation.

    judge: a model with a value head, held as a Reference is: in evaluation mode, without gradient. micro: conversations at once.
    """

    def __init__(self, judge: Reference, device: Device, *, micro: int, pad_id: int):
        self._judge, self._device, self._micro, self._pad_id = judge, device, micro, pad_id

    def __call__(self, talks: Sequence[np.ndarray]) -> list[float]:
        """A score for the ids of each conversation, in order."""
        found: list[float] = []
        with self._judge.held() as policy, self._device.autocast():
            for start in range(0, len(talks), self._micro):
                rows = [Encoded(ids, np.full(len(ids), IGNORE, np.int32)) for ids in talks[start : start + self._micro]]
                batch = (pack(rows) if policy.can_pack else pad(rows, self._pad_id)).to(self._device.device)
                found += policy.values(batch)[batch.ends_BT].tolist()
        return found


def build_reward_model(run: Run, device: Device, policy: Policy, module: nn.Module, tokenizer: Any) -> RewardModel:
    """The reward model of the settings. Raises ModelError where it is none, or reads other tokens than `tokenizer` gives."""
    asked = run.objective
    if asked.reward_model_type == "lora":
        judge, what = _adapter(run, policy, module, tokenizer), "an adapter beside the one that learns"
    else:
        judge, what = _whole(run, device, policy, tokenizer), "a second model in memory"
    log.info(f"answers are scored by {asked.reward_model}, {what}")
    return RewardModel(judge, device, micro=run.train.per_device_train_batch_size, pad_id=tokenizer.pad_token_id)


def whole_model(run: Run) -> ModelConfig | None:
    """The settings of the reward model that is loaded beside the one that learns; None where it is an adapter or a server."""
    asked = run.objective
    if asked.kind != "ppo" or asked.reward_model_type != "full":
        return None
    if (Path(asked.reward_model) / CONFIG).is_file():
        hint = "write reward_model_type: lora, or its base here and this under reward_model_adapters"
        raise ModelError(f"reward_model: {asked.reward_model} is an adapter; {hint}")
    return other_model(run, asked.reward_model, asked.reward_model_quantization_bit)


def _adapter(run: Run, policy: Policy, module: nn.Module, tokenizer: Any) -> Reference:
    """The policy itself while the adapter that scores, and its value head, stand in for the ones that learn."""
    place = Path(run.objective.reward_model)
    if (place / "config.json").is_file() and not (place / CONFIG).is_file():
        raise ModelError(f"reward_model: {place} is a whole model; write reward_model_type: full, or name an adapter")
    folder = locate(str(place), key="reward_model")
    file = _found(next((folder.path / name for name in (FILE, OLD_FILE) if (folder.path / name).is_file()), None), str(place))
    if any(folder.path.glob("tokenizer*")):
        _require_same_tokens(run, str(folder.path), tokenizer)
    attach_beside(module, NAME, folder, base_name=hub_name(run.model))
    causal = find_causal(module)
    head = ValueHead(causal.get_output_embeddings().weight.shape[-1]).requires_grad_(False).to(causal.device)
    with with_value_head(causal, head):
        load_value_head(causal, file)

    @contextmanager
    def scoring() -> Iterator[None]:
        with with_adapter(module, NAME), with_value_head(causal, head):
            yield

    return Reference(policy, scoring)


def _whole(run: Run, device: Device, policy: Policy, tokenizer: Any) -> Reference:
    """A second model, frozen, in memory beside the one that learns."""
    asked, place = run.objective, run.objective.reward_model
    adapters = asked.reward_model_adapters
    model = whole_model(run)
    assert model is not None, "a whole reward model is asked for"
    file = _found(find_value_head(model, [locate(name, key="reward_model_adapters").path for name in adapters]), place)
    _require_same_tokens(run, place, tokenizer)
    other = load_beside(run, device, model, adapters)
    other.self_test()
    add_value_head(other.causal, file)
    other.causal.requires_grad_(False)
    return Reference(other)


def _found(file: Path | None, place: str) -> Path:
    """The value head's file, if it is there and not one of PPO's own, whose values are no scores."""
    if file is None:
        raise ModelError(
            f"reward_model: {place} holds no {FILE}, so it gives no scores; train a reward model with stage: rm, and name its "
            "output_dir"
        )
    if learned_by(file) == "ppo":
        raise ModelError(f"reward_model: {file} was learned by stage: ppo, whose values are no scores; name one of stage: rm")
    return file


def _require_same_tokens(run: Run, place: str, tokenizer: Any) -> None:
    """Conversations go to it as ids: the same text must be the same ids."""
    theirs = load_tokenizer(run.model.model_copy(update={"model_name_or_path": place})).get_vocab()
    ours = tokenizer.get_vocab()
    for token in sorted(ours.keys() | theirs.keys()):
        if ours.get(token) != theirs.get(token):
            there, here = theirs.get(token, "not in it"), ours.get(token, "not in it")
            raise ModelError(
                f"reward_model: {place} has another tokenizer than {run.model.model_name_or_path}: {token!r} is {there} there "
                f"and {here} here. It reads the ids that the model draws: name a reward model trained on the same family, or "
                "serve it and write reward_model_type: api, which reads text"
            )
