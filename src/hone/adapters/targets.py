"""Which modules of a model an adapter goes to, and whether a saved one fits.

Does not know peft.
"""

from __future__ import annotations

import math
from functools import partial

from torch import nn

from hone import log
from hone.adapters.files import shapes_of
from hone.adapters.folder import WEIGHTS, AdapterFolder
from hone.adapters.parts import PartName, part_of
from hone.errors import ModelError, at_once
from hone.table import nearest

PREFIX = "base_model.model."
"""What peft writes before the base's own names."""


def choose_targets(
    module: nn.Module,
    names: tuple[str, ...],
    rerouted: frozenset[str] = frozenset(),
    *,
    key: str = "lora_target",
    resting: frozenset[PartName] = frozenset(),
) -> list[str]:
    """Names for peft: those of the layers "all" means, else those asked for. rerouted: last names peft takes for other weights.

    key: the setting that names them; resting: parts of a model that takes media, whose layers get none.

    Raises ModelError for a name that matches no module that can carry an addition.
    """
    if "all" not in names:
        if SCORE in names and score_head(module) is not None:
            raise ModelError(f"{key}: {SCORE}: the head that scores texts is trained whole in any case; leave it out")
        require_modules(module, names, key)
        for name in names:
            if name.rpartition(".")[-1] in rerouted:
                raise ModelError(
                    f"{key}: {name}: in {type(module).__name__} peft takes {', '.join(sorted(rerouted))} for the experts' "
                    "fused weights, not for this layer; leave it out, or write finetuning_type: full or freeze"
                )
        return list(names) if not resting else _awake(module, names, key, resting)
    head = module.get_output_embeddings() or score_head(module)
    linear = [
        path
        for path, inner in carriers(module).items()
        if inner is not head and not isinstance(inner, nn.Embedding) and part_of(path) not in resting
    ]
    past = _PAST_THE_MODULE.get(module.config.get_text_config().model_type, ())
    paths = [path for path in linear if not _left_out(path, rerouted) and not path.endswith(past)]
    if not paths:
        raise ModelError(f"{key}: all: {type(module).__name__} has no linear layer but its output head; name the modules")
    _say_left(module, sorted(set(linear) - set(paths)), key)
    return _short_names(module, paths)


def _awake(module: nn.Module, names: tuple[str, ...], key: str, resting: frozenset[PartName]) -> list[str]:
    """Names for peft of the layers that `names` mean outside the resting parts."""
    found = [path for name in names for path in find_modules(module, name, key, carriers(module))]
    awake = [path for path in found if part_of(path) not in resting]
    if not awake:
        raise ModelError(f"{key}: {', '.join(names)} are layers of the {part_of(found[0])} alone, which is frozen")
    return _short_names(module, awake)


SCORE = "score"
"""transformers' name of the head that scores whole texts."""


def score_head(module: nn.Module) -> nn.Module | None:
    """The head that scores whole texts, which every method trains whole; None in a model that writes."""
    return module._modules.get(SCORE) if module.get_output_embeddings() is None else None


_ROUTES = {"gate", "router", "modality_router", "shared_expert_gate", "indexer"}
"""Linear layers that choose or weigh: routers and gates of experts, Gemma 3n's mixing of streams, and the indexers of sparse

attention, which no gradient reaches.
"""

_PAST_THE_MODULE: dict[str, tuple[str, ...]] = {
    "deepseek_v4": (".o_a_proj",),
    "falcon_h1": (".mamba.out_proj",),
    "granitemoehybrid": (".mamba.out_proj",),
    "jamba": (".mamba.dt_proj",),
    "mamba": (".dt_proj", ".x_proj", ".out_proj"),
}
"""Layers of transformers 5.23 (2026-11) whose weight is used past their own forward, by a kernel or group by group: an addition

would do nothing, or something else than is merged. By model_type.
"""


def _left_out(path: str, rerouted: frozenset[str]) -> bool:
    return not _ROUTES.isdisjoint(path.split(".")) or path.rpartition(".")[-1] in rerouted


def _short_names(module: nn.Module, paths: list[str]) -> list[str]:
    """The last parts of the paths where these mean the chosen layers alone, else whole paths: peft matches ends of names."""
    chosen = set(paths)
    others = {path.rpartition(".")[-1] for path, _ in module.named_modules() if path not in chosen}
    lasts = {path: path.rpartition(".")[-1] for path in paths}
    return sorted({path if last in others else last for path, last in lasts.items()})


def ties_embeddings(module: nn.Module) -> bool:
    """Whether input and output embeddings are one tensor, which some models say of their text and some of themselves."""
    text, whole = (config.to_dict() for config in (module.config.get_text_config(), module.config))
    return bool(text.get("tie_word_embeddings", whole.get("tie_word_embeddings")))


def carriers(module: nn.Module) -> dict[str, nn.Module]:
    """The modules that can carry an addition, by path: linear layers (quantized too), GPT-2's Conv1D and embeddings."""
    return {
        path: inner
        for path, inner in module.named_modules()
        if isinstance(inner, nn.Linear | nn.Embedding) or type(inner).__name__ == "Conv1D"
    }


def require_modules(module: nn.Module, names: tuple[str, ...], key: str) -> None:
    """Raise ModelError, or Several of them, for the names of no module that can carry an addition."""
    among = carriers(module)
    at_once(partial(find_modules, module, name, key, among) for name in names)


def find_modules(module: nn.Module, name: str, key: str, among: dict[str, nn.Module] | None = None) -> list[str]:
    """Paths whose end is `name`; ModelError with the names there are where none is."""
    modules = dict(module.named_modules()) if among is None else among
    found = [path for path in modules if path == name or path.endswith(f".{name}")]
    if not found:
        words = sorted({path.rpartition(".")[-1] for path in modules if path and not path[-1].isdigit()})
        raise ModelError(f'{key}: no module is called "{name}"{nearest(name, words)}; there are {", ".join(words)}')
    return found


def check_apart(module: nn.Module, targets: list[str], whole: list[str], *, pissa: bool, key: str = "lora_target") -> None:
    """Raise ModelError where one tensor would get an addition and be trained whole, or pissa_init would move one it must not.

    peft drops the addition without a word where the two names are tied embeddings.
    """
    owners = {
        id(weight): path
        for name in whole
        for path in find_modules(module, name, "additional_target")
        for weight in module.get_submodule(path).parameters()
    }
    head = module.get_output_embeddings()
    tied = head is not None and head.weight is module.get_input_embeddings().weight
    for path in (path for name in targets for path in find_modules(module, name, key, carriers(module))):
        layer = module.get_submodule(path)
        owner = owners.get(id(layer.weight))
        if owner is not None:
            same = "both hold it" if owner == path else f"{owner} is the same tensor (tied embeddings)"
            raise ModelError(
                f"{key} names {path} and additional_target or the grown vocabulary trains it whole: {same}; "
                "leave it out of one of them"
            )
        if pissa and (isinstance(layer, nn.Embedding) or (tied and layer is head)):
            raise ModelError(f"pissa_init cannot decompose {path}, the model's embeddings; leave it out of lora_target")


def check_fit(module: nn.Module, folder: AdapterFolder, base_name: str) -> None:
    """Raise ModelError where the adapter's matrices do not fit the model's layers: it belongs to another base."""
    if folder.config.get("task_type") == "SEQ_CLS" and score_head(module) is None:
        raise ModelError(
            f"{folder.path} is an adapter of a model that scores texts (stage: classify or rerank), and here one is wanted that "
            "writes"
        )
    modules = dict(module.named_modules())
    for name, shape in shapes_of(folder.path / WEIGHTS).items():
        path, side = _layer_and_side(name)
        if not side:
            _check_whole(modules, folder, path, shape, base_name)
            continue
        layer = modules.get(f"{path}.base_layer", modules.get(path))  # under another adapter, or bare
        wanted, given = None if layer is None else _width(layer, side), _given(shape, side)
        if wanted != given:
            seen = "is not in it" if layer is None else f"is {wanted} wide there and {given} in the adapter"
            raise ModelError(
                f"{folder.path} was trained on {folder.base_name} and does not fit {base_name}: {path} {seen}; "
                "name the base it was trained on under model_name_or_path"
            )
    if folder.base_name != base_name:
        log.once(f"{folder.path} says it was trained on {folder.base_name}; it fits {base_name} and is used there")


def _check_whole(modules: dict[str, nn.Module], folder: AdapterFolder, path: str, shape: tuple[int, ...], base_name: str) -> None:
    """A module saved whole must be as large in the base: embeddings that grew need the same new tokens again."""
    owner = modules.get(path.rpartition(".")[0])
    weight = dict(owner.named_parameters(recurse=False)).get(path.rpartition(".")[-1]) if owner is not None else None
    if weight is None or weight.element_size() * weight.numel() == 0 or tuple(weight.shape) == shape:
        return
    hint = "name the base it was trained on under model_name_or_path"
    if isinstance(owner, nn.Embedding) or (len(shape) == 2 and shape[1:] == tuple(weight.shape)[1:]):
        hint = "its vocabulary grew: write the same add_tokens, add_special_tokens or resize_vocab as in its training"
    raise ModelError(
        f"{folder.path} does not fit {base_name}: {path} is {list(weight.shape)} there and {list(shape)} in the adapter; {hint}"
    )


def _layer_and_side(name: str) -> tuple[str, str]:
    for side in ("A", "B"):
        for mark in (f".lora_{side}.", f".lora_embedding_{side}"):
            if mark in name:
                return name.removeprefix(PREFIX).split(mark)[0], side
    if ".oft_R." in name:
        return name.removeprefix(PREFIX).split(".oft_R.")[0], "R"
    return name.removeprefix(PREFIX), ""


def _given(shape: tuple[int, ...], side: str) -> int:
    """The width that a saved matrix fits; R has a row a block, of what is above the diagonal of its square."""
    if side == "R":
        return shape[0] * (1 + math.isqrt(1 + 8 * shape[1])) // 2
    return shape[1 if side == "A" else 0]


def _width(layer: nn.Module, side: str) -> int | None:
    """What side A takes in, or R, or side B gives out."""
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings if side == "A" else layer.embedding_dim
    if isinstance(layer, nn.Linear):
        return layer.out_features if side == "B" else layer.in_features
    if type(layer).__name__ == "Conv1D":
        return layer.nx if side == "A" else layer.nf
    return None


def _say_left(module: nn.Module, left: list[str], key: str) -> None:
    """What "all" does not mean: experts held as one tensor a layer; routers, gates and others that cannot carry one."""
    owned = {f"{path}.weight" for path in carriers(module)} | {f"{path}.bias" for path in carriers(module)}
    fused = {
        path.rpartition(".")[-1]
        for path, weight in module.named_parameters()
        if weight.dim() > 1 and ".experts." in path and path not in owned and not path.endswith("bias")
    }
    if fused:
        log.once(
            f"{key}: all: the experts' fused weights ({', '.join(sorted(fused))}) get no addition, other layers do; "
            "finetuning_type: full or freeze trains them"
        )
    if left:
        names = sorted({".".join(path.split(".")[-2:]) for path in left})
        log.once(f"{key}: all: these linear layers get no addition: {', '.join(names)} (see docs/models.md)")
