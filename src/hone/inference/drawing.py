"""Token ids drawn by transformers' `generate`, handed over one at a time while it runs.

Does not know conversations or text. `generate` runs in a thread, as it gives tokens only to an object that it calls; it knows
every architecture's cache, so that nothing here depends on the model's family.
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from hone.inference.asked import Asked
from hone.inference.steering import Steer
from hone.models.forward import media_inputs

_END = object()


class _Inbox(BaseStreamer):
    """Puts each new token into a queue; the first call brings the prompt, which nobody asked for."""

    def __init__(self, tokens: queue.SimpleQueue, steer: Steer | None):
        self.tokens, self.steer = tokens, steer
        self.prompt_seen = False

    def put(self, value: Tensor) -> None:
        if self.prompt_seen:
            for token in value.reshape(-1).tolist():
                if self.steer is not None:
                    self.steer.note(token)
                self.tokens.put(token)
        self.prompt_seen = True

    def end(self) -> None:
        """Nothing to do: the thread says itself that it ended, also after an error."""


class _Left(StoppingCriteria):
    """True for every sequence once the listener has left."""

    def __init__(self, left: threading.Event):
        self.left = left

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        return torch.full((input_ids.shape[0],), self.left.is_set(), dtype=torch.bool, device=input_ids.device)


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """int64 [B, T] twice: prompts with padding before them, so that all end at one place, and 1 where they are no padding."""
    longest = max(map(len, prompts))
    ids_BT = torch.full((len(prompts), longest), pad_id, dtype=torch.int64)
    mask_BT = torch.zeros_like(ids_BT)
    for row, ids in enumerate(prompts):
        ids_BT[row, longest - len(ids) :] = torch.as_tensor(ids, dtype=torch.int64)
        mask_BT[row, longest - len(ids) :] = 1
    return ids_BT, mask_BT


def drawn_batch(
    module: nn.Module, ids_BT: Tensor, mask_BT: Tensor, settings: GenerationConfig, *, seed: int | None, **more: object
) -> Tensor:
    """What `generate` makes of left-padded prompts, [B, T + new]; torch's own random state is left as it was.

    seed: None draws a new one. more: a streamer and stopping criteria, tensors of media.
    """
    devices = [ids_BT.device] if ids_BT.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode():
        torch.manual_seed(secrets.randbits(63) if seed is None else seed)
        return module.generate(input_ids=ids_BT, attention_mask=mask_BT, generation_config=settings, **more)


def stream_ids(
    module: nn.Module, asked: Asked, settings: GenerationConfig, *, seed: int | None, steer: Steer | None = None
) -> Iterator[int]:
    """The ids of one answer as they are drawn, the stop token included; closing the iterator stops the model at its next token.

    steer: changes the logits, and has noted each id before it is given here. A beam search gives its ids at the end, and cannot
    be steered: until then it has no answer. An error of the model is raised here.
    """
    ids_BT = torch.tensor([asked.ids], device=module.device)
    tokens: queue.SimpleQueue = queue.SimpleQueue()
    left = threading.Event()
    beams = settings.num_beams > 1
    assert not beams or steer is None, "a beam search cannot be steered"
    listeners = {"stopping_criteria": StoppingCriteriaList([_Left(left)])}
    listeners |= {} if beams else {"streamer": _Inbox(tokens, steer)}
    listeners |= {} if steer is None else {"logits_processor": LogitsProcessorList([steer])}
    listeners |= media_inputs(module, ids_BT, [asked.shown])

    def work() -> None:
        try:
            out_BT = drawn_batch(module, ids_BT, torch.ones_like(ids_BT), settings, seed=seed, **listeners)
            for token in out_BT[0, len(asked.ids) :].tolist() if beams else ():
                tokens.put(token)
            tokens.put(_END)
        except BaseException as fault:
            tokens.put(fault)

    worker = threading.Thread(target=work, name="generate", daemon=True)
    worker.start()
    try:
        while (token := tokens.get()) is not _END:
            if isinstance(token, BaseException):
                raise token
            yield token
    finally:
        left.set()
        worker.join()
