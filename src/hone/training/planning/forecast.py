"""Forecast: memory and time of a run's step under given settings, from its data's lengths and its model's config alone.

Does not know which settings are best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hone import log
from hone.adapters.apply import attach, rest_output_head
from hone.adapters.freeze import find_layers
from hone.config.objectives.routed import Routed
from hone.config.run import Run
from hone.data.batch import Batch
from hone.data.build import TokenSet
from hone.data.sample import Pair
from hone.kernels.token_logprobs import elements_at_once
from hone.models.checkpointing import Activations, recompute_activations, tile_of
from hone.models.forward import Packing, find_causal
from hone.models.fused import fuse
from hone.models.host_embedding import frozen_embedding
from hone.models.media.sight import Sight
from hone.models.policy import Policy
from hone.models.quantize import tell_whole
from hone.models.quirks import padded_only
from hone.models.router import choose_coefficient
from hone.models.shape import Shape, meta_model, shape_of
from hone.models.sharing import unshared
from hone.models.value_head import add_value_head
from hone.objectives.base import Objective
from hone.objectives.onpolicy import OnPolicy
from hone.training.planning.depth import Depth, Pass, Place, cut, find_alike, whole_pass
from hone.training.planning.hardware import Hardware, hardware_of
from hone.training.planning.largest import find_largest, longest_example
from hone.training.planning.memory import Memory, Weights, add_up, frozen_bytes, state_bytes
from hone.training.planning.plan import precision_of
from hone.training.planning.rehearsal import PARTS, Watch, rehearse, without_memory
from hone.training.planning.spread import TYPES, hand_out, sharding_of_run
from hone.training.prompts import answers_at_once
from hone.training.reference import bytes_beside, is_precomputed, model_beside, told_of
from hone.training.reward_model import whole_model

_DRAWN = 3
"""Rows of logits, in fp32, that drawing the next token of an answer holds: as they came, mapped, and sorted or summed up."""
_UPDATE_BYTES = 28
"""That Adam reads and writes a trained weight in fp32."""
_UPDATE_OPERATIONS = 6
"""Of each tensor that learns, in a step: its norm, its scaling, its update, its gradient kept and let go."""


@dataclass(frozen=True)
class Forecast:
    """memory: of a process at most; seconds: of an optimizer step of mean length; from_layers: rehearsed, not by a formula.

    tile: tokens that feed-forward layers take at a time, 0 for all of a row.
    """

    memory: Memory
    seconds: float
    num_weights: int
    num_trained: int
    from_layers: bool
    tile: int = 0


_passes: dict[tuple[Any, ...], Pass | None] = {}
"""Passes that this process has rehearsed, by all that they follow from."""


def forecast(
    run: Run,
    objective: Objective,
    tokens: TokenSet,
    activations: Activations,
    *,
    device: torch.device,
    world: int,
    named: str = "",
) -> Forecast:
    """Of a run whose batch sizes are numbers, with its activations treated so. named: hardware in the place of `device`."""
    hardware = hardware_of(device, named)
    plain = partial(_plain, run, objective, device, named)
    module = plain()
    shape, precision = shape_of(module), precision_of(run.train)
    attached, weights = _attach(run, objective, module)
    sharding = sharding_of_run(run, attached, world, device=hardware.device)  # of all layers: a rehearsal leaves one of each kind
    hand_out(run, attached)
    longest = longest_example(run, objective, tokens)
    packing, by_sequence = _packing(run, objective, module, tokens.shows_media), not shape.masked
    largest = find_largest(run, objective, tokens, longest=longest, packing=packing, by_sequence=by_sequence)
    batch = objective.learned(largest.batch)
    several = run.train.gradient_accumulation_steps > 1
    settings = (repr(run.adapter), repr(run.model.quantization), run.model.flash_attn, precision, run.train.pure_bf16)
    laid = (batch.segments_BT.flatten().tolist(), batch.positions_BT.flatten().tolist())
    shown = tuple(tuple((name, *one.shape) for name, one in tensors.items()) for tensors in batch.shown)
    lengths = (tuple(batch.ids_BT.shape), *map(tuple, laid), batch.num_trained, shown)
    asked = (run.train.fused_kernels, activations, str(device), named, several, objective.needs_logits, repr(run.parallel))
    key = (module.config.to_json_string(), *settings, *asked, *lengths)
    tile = tile_of(attached, activations, batch.ids_BT.numel())
    if key not in _passes:
        tried = partial(
            _rehearse, run, objective, batch, activations, weights.expanded, hardware=hardware,
            holds_gradients=several and sharding.flow.adds_up,
        )  # fmt: skip
        _passes[key] = tried(attached) or tried(hand_out(run, _attach(run, objective, plain())[0]), whole=True)
    found, at_once = _passes[key], min(batch.num_trained * shape.vocabulary, elements_at_once(shape.vocabulary, hardware.device))
    one = found or _by_formula(shape, batch, precision != "no", activations, at_once)
    parts = run.parallel.context_parallel_size  # of a row, and of what is formed of it, a process has one
    memory = add_up(
        weights, one.most(sharding.flow, parts), formed=one.formed // parts, optimizer=_step_kind(run),
        recomputes=activations != "kept", sharding=sharding, half=precision != "no", device=hardware.device,
    )  # fmt: skip
    extra = max(0, objective.logit_chunks - 2) * 4 * at_once
    memory = _beside(run, objective, replace(memory, logits=memory.logits + extra), shape.cached * shape.num_layers, longest)
    seconds = one.other_seconds * largest.tokens + one.attention_seconds * largest.seen
    seconds *= run.train.gradient_accumulation_steps / parts
    speed = hardware.speed(TYPES[precision])
    seconds += weights.num_trained * _UPDATE_BYTES / speed.bytes + weights.tensors * _UPDATE_OPERATIONS * speed.least_seconds
    return Forecast(memory, seconds, weights.num, weights.num_trained, found is not None, tile)


def _plain(run: Run, objective: Objective, device: torch.device, named: str) -> nn.Module:
    """The model on "meta", with the operations it will have."""
    module = meta_model(run.model, objective.head)
    fuse(module, False if named and run.train.fused_kernels == "auto" else run.train.fused_kernels, device)
    return module


def _attach(run: Run, objective: Objective, module: nn.Module) -> tuple[nn.Module, Weights]:
    """The model on "meta" with its adapter, in the types it will be held in, and what its weights take."""
    precision, quantization = precision_of(run.train), run.model.quantization
    whole = run.adapter.kind in ("full", "freeze") and not run.train.pure_bf16
    base = torch.float32 if whole else TYPES[precision]
    for weight in module.parameters():
        weight.data = weight.data.to(base)
    head = module.get_output_embeddings()
    linear = [inner.weight.numel() for inner in module.modules() if isinstance(inner, nn.Linear) and inner is not head]
    if quantization:
        tell_whole(module)
    a_weight = frozen_bytes(module, base.itemsize, quantization.bit, double=quantization.double) if quantization else 0.0
    trained_dtype = torch.bfloat16 if run.train.pure_bf16 else torch.float32
    attached = attach(module, run.adapter, base_name=run.model.model_name_or_path, trained_dtype=trained_dtype)
    if not objective.needs_logits:
        rest_output_head(attached, run.adapter)
    if objective.needs_value_head:
        add_value_head(find_causal(attached))
    trained = [one for one in attached.parameters() if one.requires_grad]
    frozen = [one for one in attached.parameters() if not one.requires_grad]
    sizes = [one.numel() * one.element_size() for one in trained]
    num_frozen = sum(one.numel() for one in frozen)
    hosted = frozen_embedding(find_causal(attached)).weight if run.train.offload_embedding else None
    in_host = 0 if hosted is None else hosted.numel() * hosted.element_size()
    on_device = int(num_frozen * a_weight) if quantization else sum(one.numel() * one.element_size() for one in frozen)
    return attached, Weights(
        num=num_frozen + sum(one.numel() for one in trained),
        num_trained=sum(one.numel() for one in trained),
        frozen=on_device - in_host,
        trained=sum(sizes),
        largest=max(sizes),
        tensors=len(sizes),
        states=state_bytes(run.optimizer.kind, trained),
        beside=run.adapter.kind in ("lora", "oft"),
        hosted=in_host,
        expanded=(2 if run.train.fused_kernels is True else 1) * max(linear) * base.itemsize if quantization else 0,
    )


def _step_kind(run: Run) -> str:
    """Which of torch's two steps AdamW takes: one of all weights at once, but with fp16's loss scaling (optim.build)."""
    if run.optimizer.kind not in ("adamw_torch", "adamw_torch_fused"):
        return run.optimizer.kind
    return "adamw_torch" if precision_of(run.train) == "fp16" else "adamw_torch_fused"


def _packing(run: Run, objective: Objective, module: nn.Module, shows_media: bool) -> Packing:
    """How training will lay its batches out, as far as it is known without trying."""
    if (sight := Sight.of(find_causal(module), shows_media=shows_media)) is not None:
        return "packed" if sight.packs else "padded"
    if padded_only(module.config):
        return "padded"
    asked = run.objective.moe_aux_loss_coef if isinstance(run.objective, Routed) else 0.0
    shares = objective.sample is Pair and not unshared(module.config) and not choose_coefficient(module, asked)
    return "shared" if shares else "packed"


def _rehearse(
    run: Run,
    objective: Objective,
    batch: Batch,
    kind: Activations,
    expanded: int,
    module: nn.Module,
    *,
    hardware: Hardware,
    holds_gradients: bool,
    whole: bool = False,
) -> Pass | None:
    """The pass, from one of each kind of layer; None for a model that cannot be rehearsed.

    whole: from all of its layers, as some families have parts as wide as these are many; what that cannot be told of is said.
    """
    dtype, device = TYPES[precision_of(run.train)], hardware.here
    try:
        causal = find_causal(module)
        path, layers = find_layers(causal)
        recompute_activations(causal, kind)
        config = causal.config.get_text_config()
        learns = any(one.requires_grad for one in causal.get_input_embeddings().parameters())
        every = tuple(range(len(layers)))
        depth = Depth(every, every) if whole else find_alike(layers, config, learns_before=learns)
        few = cut(layers, config, depth)
        parent, _, name = path.rpartition(".")
        setattr(causal.get_submodule(parent), name, few)
        causal.config.use_cache = False
        watch = Watch(without_memory(module, device), len(few), config.vocab_size, hardware.speed(dtype))
        policy = Policy(module.train(), router_loss=0.0, shows_media=any(batch.shown))
        if device.type not in ("cpu", "meta"):  # ids have memory, and tensors without it are taken for the device's
            batch = batch.to(device)

        def loss() -> Tensor:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                return _loss_of(policy, objective)(batch).sum()

        return whole_pass(rehearse(module, list(few), loss, watch, holds_gradients=holds_gradients), depth.like, expanded)
    except Exception as problem:  # every family has operations of its own, and a plan is no reason to refuse one
        if not whole:
            return None
        why = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        log.once(f"note: the plan's memory and time are by a formula, as the layers could not be rehearsed ({why})")
        return None


def _loss_of(policy: Policy, objective: Objective) -> Callable[[Batch], Tensor]:
    """What its loss reads of the policy."""
    if objective.needs_logits and objective.needs_value_head:
        return lambda batch: torch.stack(policy.logprobs_and_values(batch))
    if objective.needs_logits:
        return policy.token_losses
    read = policy.scores if objective.needs_value_head else policy.hidden
    return lambda batch: read(batch, batch.ends_BT)


def _by_formula(shape: Shape, batch: Batch, half: bool, kind: Activations, at_once: int) -> Pass:
    """What a plain layer keeps: two norms, four projections of attention, three of a feed-forward, in bytes and at 1 TFLOP/s.

    at_once: logits that are formed together.
    """
    num, width = batch.ids_BT.numel(), 2 if half else 4
    num_layers, hidden, wide = shape.num_layers, shape.hidden, shape.feed_forward
    layer = num * (8 * hidden + width * (8 * hidden + 4 * wide)) + num**2 * width
    inputs = num * hidden * width * num_layers
    held = {"kept": layer * num_layers, "selective": inputs + layer * num_layers // 2, "full": inputs + layer, "offloaded": layer}
    seconds = 6e-12 * num * num_layers * (4 * hidden**2 + 3 * hidden * wide)
    host = inputs if kind == "offloaded" else 0
    parts = {"activations": held[kind], "logits": 8 * at_once, "gradients": 0, "host": host}
    highest = Place("backward", num_layers - 1, tuple(parts[part] for part in PARTS))
    return Pass((highest,), layer * num_layers * 5, 0.0, seconds)


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
