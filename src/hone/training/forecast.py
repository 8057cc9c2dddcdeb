"""Forecast: memory and time of a run's step under given settings, from its data's lengths and its model's config alone.

Does not know which settings are best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hone import log
from hone.adapters.apply import attach, rest_output_head
from hone.adapters.freeze import find_layers
from hone.chat.encoded import IGNORE, Encoded
from hone.config.run import Run
from hone.data.batch import Batch, pack, pad
from hone.data.build import TokenSet
from hone.kernels.token_logprobs import CHUNK_ELEMENTS, elements_at_once
from hone.models.checkpointing import Activations, recompute_activations
from hone.models.fused import fuse
from hone.models.policy import Policy, find_causal
from hone.models.quirks import padded_only
from hone.models.shape import meta_model, shape_of
from hone.objectives.base import Objective
from hone.objectives.onpolicy import OnPolicy
from hone.training.depth import Pass, cut, find_alike, whole_pass
from hone.training.memory import Memory, Weights, add_up, frozen_bytes, state_bytes
from hone.training.plan import precision_of
from hone.training.prompts import answers_at_once, require_room
from hone.training.reference import bytes_beside, is_precomputed, model_beside, told_of
from hone.training.rehearsal import Watch, rehearse, without_memory
from hone.training.reward_model import whole_model
from hone.training.rows import fills_rows, row_length
from hone.training.speed import speed_of

_TYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_DRAWN = 3
"""Rows of logits, in fp32, that drawing the next token of an answer holds: as they came, mapped, and sorted or summed up."""
_UPDATE_BYTES = 28
"""That Adam reads and writes a trained weight in fp32."""


@dataclass(frozen=True)
class Forecast:
    """memory: of a process at most; seconds: of an optimizer step of mean length; from_layers: rehearsed, not by a formula."""

    memory: Memory
    seconds: float
    num_weights: int
    num_trained: int
    from_layers: bool


_passes: dict[tuple[Any, ...], Pass | None] = {}
"""Passes that this process has rehearsed, by all that they follow from."""


def forecast(
    run: Run, objective: Objective, tokens: TokenSet, activations: Activations, *, device: torch.device, world: int
) -> Forecast:
    """Of a run whose batch sizes are numbers, with its activations treated so."""
    module = meta_model(run.model, objective.head)
    shape, precision = shape_of(module), precision_of(run.train)
    fuse(module, run.train.fused_kernels, device)
    attached, weights = _attach(run, objective, module)
    longest = _longest(run, objective, tokens)
    batch = _largest_batch(run, objective, tokens, longest, padded=bool(padded_only(module.config)))
    several = run.train.gradient_accumulation_steps > 1
    settings = (repr(run.adapter), precision, run.train.pure_bf16, run.model.flash_attn, run.train.fused_kernels)
    lengths = (tuple(batch.ids_BT.shape), tuple(batch.positions_BT.flatten().tolist()), batch.num_trained)
    key = (module.config.to_json_string(), *settings, activations, str(device), several, objective.needs_logits, *lengths)
    if key not in _passes:
        _passes[key] = _rehearse(run, objective, attached, batch, activations, device=device, holds_gradients=several)
    found = _passes[key]
    one = found or _by_formula(shape.num_layers, shape.hidden, shape.feed_forward, batch, precision != "no", activations)
    memory = add_up(
        weights, one.bytes, formed=one.formed, optimizer=run.optimizer.kind, recomputes=activations != "kept",
        holds_gradients=several, world=world, half=precision != "no", device=device,
    )  # fmt: skip
    at_once = min(batch.num_trained * shape.vocabulary, elements_at_once(shape.vocabulary, device))
    extra = max(0, objective.logit_chunks - 2) * 4 * at_once
    memory = _beside(run, objective, replace(memory, logits=memory.logits + extra), shape.cached * shape.num_layers, longest)
    rate = _mean_tokens(run, tokens) / max(1, batch.num_tokens)
    seconds = run.train.gradient_accumulation_steps * (one.other_seconds * rate + one.attention_seconds * rate**2)
    seconds += weights.num_trained * _UPDATE_BYTES / speed_of(device, _TYPES[precision]).bytes
    return Forecast(memory, seconds, weights.num, weights.num_trained, found is not None)


def _attach(run: Run, objective: Objective, module: nn.Module) -> tuple[nn.Module, Weights]:
    """The model on "meta" with its adapter, in the types it will be held in, and what its weights take."""
    precision, quantization = precision_of(run.train), run.model.quantization
    whole = run.adapter.kind in ("full", "freeze") and not run.train.pure_bf16
    base = torch.float32 if whole else _TYPES[precision]
    for weight in module.parameters():
        weight.data = weight.data.to(base)
    head = module.get_output_embeddings()
    linear = [inner.weight.numel() for inner in module.modules() if isinstance(inner, nn.Linear) and inner is not head]
    a_weight = frozen_bytes(module, base.itemsize, quantization.bit, double=quantization.double) if quantization else 0.0
    trained_dtype = torch.bfloat16 if run.train.pure_bf16 else torch.float32
    attached = attach(module, run.adapter, base_name=run.model.model_name_or_path, trained_dtype=trained_dtype)
    if not objective.needs_logits:
        rest_output_head(attached, run.adapter)
    trained = [one for one in attached.parameters() if one.requires_grad]
    frozen = [one for one in attached.parameters() if not one.requires_grad]
    sizes = [one.numel() * one.element_size() for one in trained]
    num_frozen = sum(one.numel() for one in frozen)
    return attached, Weights(
        num=num_frozen + sum(one.numel() for one in trained),
        num_trained=sum(one.numel() for one in trained),
        frozen=int(num_frozen * a_weight) if quantization else sum(one.numel() * one.element_size() for one in frozen),
        trained=sum(sizes),
        largest=max(sizes),
        states=state_bytes(run.optimizer.kind, trained),
        beside=run.adapter.kind == "lora",
        expanded=max(linear) * base.itemsize if quantization else 0,
    )


def _longest(run: Run, objective: Objective, tokens: TokenSet) -> int:
    """Tokens of the longest example, with the longest answer that may be drawn to it."""
    longest = int(tokens.lengths.max())
    if isinstance(objective, OnPolicy):
        prompts = tokens.lengths - tokens.trained  # an answer that is drawn takes the place of the row's own
        longest = max(longest, int(prompts.max()) + run.generate.max_new_tokens)
        require_room(run, longest)
    return longest


def _largest_batch(run: Run, objective: Objective, tokens: TokenSet, longest: int, *, padded: bool) -> Batch:
    """The micro-batch that may hold the most."""
    micro = run.train.per_device_train_batch_size
    if isinstance(objective, OnPolicy) or fills_rows(run):
        length = row_length(run, tokens) if fills_rows(run) else longest
        labels = np.zeros(length, np.int32)
        labels[0] = IGNORE
        rows: list[Any] = [Encoded(np.zeros(length, np.int32), labels)] * micro
    else:
        rows = [tokens[int(number)] for number in np.argsort(tokens.lengths, kind="stable")[-micro:]]
    return pad(rows, 0) if padded else pack(rows)


def _mean_tokens(run: Run, tokens: TokenSet) -> float:
    """Of a micro-batch."""
    return run.train.per_device_train_batch_size * float(row_length(run, tokens) if fills_rows(run) else tokens.lengths.mean())


def _rehearse(
    run: Run,
    objective: Objective,
    module: nn.Module,
    batch: Batch,
    kind: Activations,
    *,
    device: torch.device,
    holds_gradients: bool,
) -> Pass | None:
    """The pass, from one of each kind of layer; None for a model that cannot be rehearsed, which is said."""
    dtype = _TYPES[precision_of(run.train)]
    try:
        causal = find_causal(module)
        path, layers = find_layers(causal)
        recompute_activations(causal, kind)
        config = causal.config.get_text_config()
        learns = any(one.requires_grad for one in causal.get_input_embeddings().parameters())
        depth = find_alike(layers, config, learns_before=learns)
        few = cut(layers, config, depth)
        parent, _, name = path.rpartition(".")
        setattr(causal.get_submodule(parent), name, few)
        causal.config.use_cache = False
        watch = Watch(without_memory(module, device), len(few), config.vocab_size, speed_of(device, dtype))
        policy = Policy(module.train(), router_loss=0.0)

        def loss() -> Tensor:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                return _loss_of(policy, objective)(batch).sum()

        return whole_pass(rehearse(module, list(few), loss, watch, holds_gradients=holds_gradients), depth.like)
    except Exception as problem:  # every family has operations of its own, and a plan is no reason to refuse one
        log.once(
            f"note: the plan's memory and time are by a formula, as the layers could not be rehearsed ({str(problem)[:100]})"
        )
        return None


def _loss_of(policy: Policy, objective: Objective) -> Callable[[Batch], Tensor]:
    if objective.needs_logits:
        return policy.token_losses
    return lambda batch: policy.hidden(batch, batch.ends_BT)


def _by_formula(num_layers: int, hidden: int, wide: int, batch: Batch, half: bool, kind: Activations) -> Pass:
    """What a plain layer keeps: two norms, four projections of attention, three of a feed-forward, in bytes and at 1 TFLOP/s."""
    num, width = batch.ids_BT.numel(), 2 if half else 4
    layer = num * (8 * hidden + width * (8 * hidden + 4 * wide)) + num**2 * width
    inputs = num * hidden * width * num_layers
    held = {"kept": layer * num_layers, "selective": inputs + layer * num_layers // 2, "full": inputs + layer, "offloaded": layer}
    seconds = 6e-12 * num * num_layers * (4 * hidden**2 + 3 * hidden * wide)
    return Pass({"activations": held[kind], "logits": 8 * CHUNK_ELEMENTS, "gradients": 0}, layer * num_layers * 5, 0.0, seconds)


def _beside(run: Run, objective: Objective, memory: Memory, cached: int, longest: int) -> Memory:
    """With the models that are loaded beside, and what drawing answers takes. cached: numbers of a token in all layers."""
    refers = objective.needs_reference and not is_precomputed(run)
    with told_of("reward_model"):
        reward = bytes_beside(run, whole_model(run))
    drawing = 0
    if isinstance(objective, OnPolicy) and not run.objective.rollout_server:
        width, answers = (2 if precision_of(run.train) != "no" else 4), answers_at_once(run)
        vocabulary = meta_model(run.model).config.get_text_config().vocab_size
        drawing = answers * (longest * cached * width + vocabulary * 4 * _DRAWN)
    reference = bytes_beside(run, model_beside(run)) if refers else 0
    return replace(memory, reference=reference, reward=reward, drawing=max(0, drawing - memory.activations - memory.logits))
