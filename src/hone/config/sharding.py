"""Sharding: what `fsdp` and `fsdp_config` ask for, as transformers and accelerate mean them, and what of it is not here.

Does not know how weights are sharded; torch's `fully_shard` (FSDP2) carries out settings of either version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hone.config.convert import FALSE, TRUE
from hone.config.parallel import ParallelConfig
from hone.table import nearest

Finding = tuple[str, str]  # key, message


@dataclass(frozen=True)
class Sharding:
    """How a model is sharded.

    reshard: whether a layer's weights are let go after its forward pass and gathered again for the backward pass; offload: shards
    wait in host memory; one_loads: one process a run reads the weights and sends the others their shares; hybrid: shares within
    a machine, the same on every machine; ahead: each layer asks for the next one's weights before it computes; sharded: whether
    checkpoints are shards; units: classes of the layers, () to find them; recomputes: None where nothing is said of it.
    """

    reshard: bool = True
    offload: bool = False
    one_loads: bool = False
    hybrid: bool = False
    ahead: bool = False
    sharded: bool = False
    units: tuple[str, ...] = ()
    recomputes: bool | None = None


_STRATEGIES = {
    "full_shard": {"reshard": True},
    "shard_grad_op": {"reshard": False},
    "hybrid_shard": {"reshard": True, "hybrid": True},
    "hybrid_shard_zero2": {"reshard": False, "hybrid": True},
}
_NUMBERED = {"1": "full_shard", "2": "shard_grad_op", "3": "no_shard", "4": "hybrid_shard", "5": "hybrid_shard_zero2"}
_SWITCHES = {
    "offload_params": "offload",
    "cpu_offload": "offload",
    "cpu_ram_efficient_loading": "one_loads",
    "forward_prefetch": "ahead",
    "activation_checkpointing": "recomputes",
}
_NAMES = ("transformer_layer_cls_to_wrap", "transformer_cls_names_to_wrap")
_ALWAYS = {  # key: (values that say what is done in any case, what to write)
    "version": (("1", "2"), "write 2"),
    "auto_wrap_policy": (
        ("transformer_based_wrap",),
        "the layers are what is sharded together; write TRANSFORMER_BASED_WRAP, and name other classes of layers under "
        "fsdp_transformer_layer_cls_to_wrap",
    ),
    "backward_prefetch": (("backward_pre", "no_prefetch"), "the next layer is always asked for before; write BACKWARD_PRE"),
    "use_orig_params": (("true",), "weights keep their names and shapes in any case; write true, or leave it out"),
    "limit_all_gathers": (("true",), "one layer at a time is gathered ahead in any case; write true, or leave it out"),
    "sync_module_states": (("true", "false"), ""),
    "min_num_params": (("0",), "layers are sharded one by one and not by size; leave it out"),
    "xla": (FALSE, "XLA is not in this version; leave it out"),
    "xla_fsdp_v2": (FALSE, "XLA is not in this version; leave it out"),
    "xla_fsdp_grad_ckpt": (FALSE, "XLA is not in this version; leave it out"),
    "activation_checkpointing_offload": (FALSE, "leave it out and write gradient_checkpointing_kind: offloaded"),
}
"""Values of `backward_prefetch` and the like change the speed of FSDP1 alone, never a result."""
_REFUSED = {
    "ignored_modules": "a module that is left whole would not learn the same everywhere; leave it out",
    "mixed_precision_policy": "leave it out: bf16: true and fp16: true say in what products are taken and weights are sent",
    "xla_fsdp_settings": "XLA is not in this version; leave it out",
}
KEYS = (*_SWITCHES, *_NAMES, *_ALWAYS, *_REFUSED, "reshard_after_forward", "sharding_strategy", "state_dict_type")


def sharding_of(parallel: ParallelConfig) -> Sharding:
    """The sharding that settings which were found right ask for."""
    sharding, findings = read_sharding(parallel.fsdp, parallel.fsdp_config or {})
    assert not findings, "settings are looked through when they are read"
    return replace(sharding, units=parallel.fsdp_transformer_layer_cls_to_wrap or sharding.units)


def parts_layers(parallel: ParallelConfig) -> bool:
    """Whether some process never holds a whole layer of its own, on which another way of computing it could be tried."""
    return parallel.tensor_parallel_size > 1 or (parallel.engine == "fsdp" and sharding_of(parallel).one_loads)


def read_sharding(words: tuple[str, ...], config: Mapping[str, Any]) -> tuple[Sharding, list[Finding]]:
    """What `fsdp` and `fsdp_config` say together, and what is wrong with them."""
    sharding, findings = Sharding(), []
    for word in " ".join(words).lower().split():
        if word in _STRATEGIES:
            sharding = replace(sharding, **_STRATEGIES[word])
        elif word == "offload":
            sharding = replace(sharding, offload=True)
        elif word not in (*TRUE, *FALSE, "auto_wrap"):
            findings.append(("fsdp", _unknown(word)))
    for written, value in config.items():
        key = written.removeprefix("fsdp_")
        try:
            sharding = replace(sharding, **_read(key, value))
        except ValueError as problem:
            findings.append(("fsdp_config", f"{written}: {problem}"))
    return sharding, findings


def _unknown(word: str) -> str:
    if word == "no_shard":
        return "no_shard shards nothing, as DDP does: leave fsdp out"
    known = [*_STRATEGIES, "offload", "auto_wrap"]
    return f'saw "{word}"{nearest(word, known)}, wanted true, or words of {", ".join(known)}'


def _read(key: str, value: Any) -> dict[str, Any]:
    """The fields that one line of fsdp_config sets; ValueError with what to write where it is not to be had."""
    text = _text(value)
    if key in _REFUSED:
        if text in ("none", "", *FALSE):
            return {}
        raise ValueError(_REFUSED[key])
    if key in _SWITCHES:
        return {_SWITCHES[key]: _bool(text)}
    if key in _NAMES:
        names = value if isinstance(value, list) else [] if value is None else str(value).split(",")
        return {"units": tuple(str(name).strip() for name in names if str(name).strip())}
    if key in ("reshard_after_forward", "sharding_strategy"):
        return _strategy(text)
    if key == "state_dict_type":
        if text not in ("full_state_dict", "sharded_state_dict"):
            raise ValueError(f"saw {value}, wanted FULL_STATE_DICT or SHARDED_STATE_DICT")
        return {"sharded": text == "sharded_state_dict"}
    if key not in _ALWAYS:
        raise ValueError(f"unknown setting{nearest(key, list(KEYS))}; remove it")
    allowed, advice = _ALWAYS[key]
    if text not in (*allowed, "none"):
        raise ValueError(f"saw {value}; {advice}")
    return {}


def _strategy(text: str) -> dict[str, Any]:
    """reshard_after_forward is a switch in FSDP2, and a word of FSDP1's, as sharding_strategy is."""
    if text in (*TRUE[:3], *FALSE[:3]):
        return {"reshard": _bool(text)}
    word = _NUMBERED.get(text, text)
    if word not in _STRATEGIES:
        raise ValueError(_unknown(word))
    return _STRATEGIES[word]


def _bool(text: str) -> bool:
    if text not in (*TRUE, *FALSE):
        raise ValueError(f'saw "{text}", wanted true or false')
    return text in TRUE


def _text(value: Any) -> str:
    """A value as a word; transformers' own numbers and quoted words alike."""
    return str(value).strip().lower()
