"""Which tensors a GGUF file holds, and of which tensors of the merged model each is made: renamed, turned, stacked or cut.

Does not know number formats on disk; rows are read when they are asked for, a block at a time where nothing is turned.

Axes: E expert, H head, R rows of a weight, D inputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hone.errors import ExportError
from hone.export.gguf.families import Config, Family, head_width, rotation_factors
from hone.export.gguf.package import load_gguf
from hone.export.merge import BLOCK_BYTES, blocks
from hone.export.recipe import Recipe, Step

Change = Callable[[Tensor], Tensor]
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_EXPERT = re.compile(r"^model\.layers\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight$")
_STACKED = re.compile(r"^model\.layers\.(\d+)\.mlp\.experts\.(gate_up_proj|down_proj)$")
_PART = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down", "w2": "down"}
_COMPUTED = ("rotary_emb.inv_freq",)
"""Ends of names of tensors that follow from the config."""


@dataclass(frozen=True)
class Made:
    """One tensor of the file. shape: the outermost axis first.

    sources: laid end to end. change: of each source read whole; None copies it rows by rows. given: its numbers, where it has no
    source.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[Step, ...] = ()
    change: Change | None = None
    given: tuple[float, ...] = field(default=(), repr=False)

    def rows(self, device: str = "cpu") -> Iterator[Tensor]:
        """fp32, block by block along the first axis or, of stacked weights, of the first two."""
        if self.given:
            yield torch.tensor(self.given)
        for source in self.sources:
            read = (block.float() for block in blocks(source, block_bytes=BLOCK_BYTES, device=device))
            if self.change is None:
                yield from read
            else:
                yield self.change(torch.cat(list(read))).contiguous()


def plan_tensors(recipe: Recipe, family: Family, config: Config) -> tuple[list[Made], list[str]]:
    """Every tensor of the file in its order, and the names of those of the model that llama.cpp does not compute with.

    Raises: ExportError for a tensor that llama.cpp has no place for.
    """
    steps = {step.slot.name: step for step in recipe.steps}
    left = [name for name in steps if _beyond(name, config)]
    tied = bool(config.get("tie_word_embeddings")) and not recipe.untied
    names = load_gguf().get_tensor_name_map(architecture_number(family), config["num_hidden_layers"])
    made, stacks, strange = [], {}, []
    for name, step in steps.items():
        if name in left or name.endswith(_COMPUTED) or (tied and name == "lm_head.weight"):
            continue
        if found := _EXPERT.match(name):
            layer, expert, part = found.groups()
            stacks.setdefault((int(layer), _PART[part]), {})[int(expert)] = step
        elif found := _STACKED.match(name):
            made += _cut_stack(int(found[1]), found[2], step)
        elif name.endswith("self_attn.kv_b_proj.weight"):
            made += _latent(int(_LAYER.search(name)[1]), step, config)
        elif (place := names.get_name(_usual(name), try_suffixes=(".weight", ".bias"))) is None:
            strange.append(name)
        else:
            made.append(Made(place, step.slot.shape, (step,), change_of(name, family, config)))
    if strange:
        raise ExportError(f"llama.cpp's {family.architecture} has no place for {len(strange)} tensors: {', '.join(strange[:5])}")
    if family.architecture == "gemma2" and "lm_head.weight" in steps and not tied:
        raise ExportError(
            "llama.cpp's gemma2 has no output head of its own, and this model's was trained apart from its embeddings"
        )
    made += [_stack(layer, part, experts) for (layer, part), experts in stacks.items()]
    made += [Made(name, (len(given),), given=tuple(given)) for name, given in rotation_factors(config).items()]
    return sorted(made, key=_order), left


def architecture_number(family: Family) -> int:
    """gguf's number of llama.cpp's architecture."""
    return next(number for number, name in load_gguf().MODEL_ARCH_NAMES.items() if name == family.architecture)


def _beyond(name: str, config: Config) -> bool:
    """Of a layer behind the last one: it guesses further tokens, which transformers does not compute either."""
    layer = _LAYER.search(name)
    return layer is not None and int(layer[1]) >= config["num_hidden_layers"]


def _usual(name: str) -> str:
    """The name under which gguf's map knows it."""
    return name.replace("e_score_correction_bias", "e_score_correction.bias")


def _order(made: Made) -> tuple[int, str]:
    layer = re.match(r"blk\.(\d+)\.", made.name)
    return (int(layer[1]) if layer else -1, made.name)


def change_of(name: str, family: Family, config: Config) -> Change | None:
    """What is done to one tensor that stays one."""
    if family.shifted_norms and name.endswith("norm.weight"):
        return lambda norm_D: norm_D + 1
    if family.interleaved and name.endswith(("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias")):
        return lambda rows_RD: interleaved(rows_RD, head_width(config))
    return None


def interleaved(rows_RD: Tensor, width: int) -> Tensor:
    """Rows of each head pair by pair, of rows whose pairs are half a head apart: 0, w/2, 1, w/2 + 1 ..."""
    halves = rows_RD.reshape(-1, 2, width // 2, *rows_RD.shape[1:])
    return halves.transpose(1, 2).reshape(rows_RD.shape)


def _stack(layer: int, part: str, experts: dict[int, Step]) -> Made:
    """One weight of all experts, which a checkpoint holds one by one."""
    steps = tuple(experts[number] for number in sorted(experts))
    return Made(f"blk.{layer}.ffn_{part}_exps.weight", (len(steps), *steps[0].slot.shape), steps)


def _cut_stack(layer: int, part: str, step: Step) -> list[Made]:
    """The weights of all experts, which a checkpoint may hold together: [E, R, D], gate and up one behind the other."""
    experts, rows, width = step.slot.shape
    if part == "down_proj":
        return [Made(f"blk.{layer}.ffn_down_exps.weight", step.slot.shape, (step,))]
    gate = Made(f"blk.{layer}.ffn_gate_exps.weight", (experts, rows // 2, width), (step,), lambda w_ERD: w_ERD[:, : rows // 2])
    up = replace(gate, name=f"blk.{layer}.ffn_up_exps.weight", change=lambda w_ERD: w_ERD[:, rows // 2 :])
    return [gate, up]


def _latent(layer: int, step: Step, config: Config) -> list[Made]:
    """Of latent attention, what makes keys and what makes values of the latent vector, apart and head by head."""
    heads, latent = config["num_attention_heads"], step.slot.shape[1]
    keys, values = config["qk_nope_head_dim"], config["v_head_dim"]

    def keys_of(w_RD: Tensor) -> Tensor:
        return w_RD.view(heads, keys + values, latent)[:, :keys].transpose(1, 2)

    def values_of(w_RD: Tensor) -> Tensor:
        return w_RD.view(heads, keys + values, latent)[:, keys:]

    return [
        Made(f"blk.{layer}.attn_k_b.weight", (heads, latent, keys), (step,), keys_of),
        Made(f"blk.{layer}.attn_v_b.weight", (heads, values, latent), (step,), values_of),
    ]
