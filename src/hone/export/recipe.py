"""What becomes of every tensor of the base: copied, converted, added to, replaced, or written apart from one it was tied to.

Does not read or write a number; knows the base's and the adapters' headers and the model's structure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.pytorch_utils import Conv1D

from hone.errors import ExportError, ModelError
from hone.export.lora import Adapter, Addition, NeedsWholeModel
from hone.export.source import Stored, main_dtype
from hone.export.write import Slot
from hone.models.score_head import NAME as SCORE


@dataclass(frozen=True)
class Step:
    """One tensor of the result: rows of `source`, with every addition, in the slot's number format.

    transposed: the weight lies as [inputs, outputs], the other way round from a Linear's: GPT-2's Conv1D, embeddings.
    """

    slot: Slot
    source: Stored
    additions: tuple[Addition, ...] = ()
    transposed: bool = False


@dataclass(frozen=True)
class Recipe:
    """Every step in file order.

    untied: input and output embeddings were one tensor and are now two; rows: the size of a vocabulary that grew. architecture:
    of the model that the tensors are of.
    """

    steps: tuple[Step, ...]
    untied: bool = False
    rows: int | None = None
    architecture: str = ""

    @property
    def num_bytes(self) -> int:
        """The size of what will be written."""
        return sum(step.slot.num_bytes for step in self.steps)


def plan_recipe(base: dict[str, Stored], adapters: list[Adapter], skeleton: nn.Module, *, dtype: str = "auto") -> Recipe:
    """Plan the merge of `adapters`, in order, into the tensors of `base`.

    base: every tensor as it is stored, as `renamed` names it; skeleton: the structure, weights on meta. dtype: "auto" keeps the
    base's number format; another of safetensors' names ("BF16") converts every tensor of the base's main format, and leaves those
    stored in another as they are.
    Raises: ModelError for an adapter of another base, ExportError for one that cannot be merged; NeedsWholeModel where the files
    name weights unlike the model.
    """
    main = main_dtype(base)
    target = main if dtype == "auto" else dtype
    tied = _tied_names(skeleton)
    steps = {name: _copied(tensor, main, target) for name, tensor in base.items()}
    ties, untied = list(tied), False
    for adapter in adapters:
        steps |= _new_head(adapter, steps, skeleton, target)
        for name in (*adapter.additions, *adapter.replacements):
            _check_known(adapter, name, steps, tied, skeleton)
        alone = [name for name in adapter.replacements if name in adapter.apart]
        for name in (name for name in adapter.replacements if name not in adapter.apart):
            for one in _stored_names(name, steps, ties):
                steps[one] = _replaced(adapter, steps[one], adapter.replacements[name])
        for name in (*alone, *adapter.additions):
            untied |= _untie(name, steps, ties)
        for name in alone:
            steps[name] = _replaced(adapter, steps[name], adapter.replacements[name])
        for name, addition in adapter.additions.items():
            steps[name] = _added(adapter, name, steps[name], addition, skeleton)
    return Recipe(tuple(steps.values()), untied, _new_rows(base, steps, skeleton), type(skeleton).__name__)


def renamed(base: dict[str, Stored], skeleton: nn.Module) -> dict[str, Stored]:
    """The tensors by the model's names, where transformers renames what a file holds as it loads it (Qwen2.5-VL, LLaVA).

    They are written under the file's names. What is put together of several as it is loaded keeps the file's name.
    """
    rules = [rule for rule in get_model_conversion_mapping(skeleton) if isinstance(rule, WeightRenaming)]
    known = {name for name, _ in skeleton.named_parameters(remove_duplicate=False)}
    found = {}
    for stored, tensor in base.items():
        name = stored
        for rule in rules if stored not in known else ():
            name = rule.rename_source_key(name)[0]
        found[stored if name not in known or name in base or name in found else name] = tensor
    return found


def _new_head(adapter: Adapter, steps: dict[str, Step], skeleton: nn.Module, target: str) -> dict[str, Step]:
    """The head that scores texts, which an adapter brings to a base that has none."""
    name = f"{SCORE}.weight"
    brought = adapter.replacements.get(name)
    if brought is None or name in steps or skeleton.get_output_embeddings() is not None:
        return {}
    return {name: Step(Slot(name, tuple(skeleton.get_submodule(SCORE).weight.shape), target), brought)}


def _copied(tensor: Stored, main: str, target: str) -> Step:
    return Step(Slot(tensor.name, tensor.shape, target if tensor.dtype == main else tensor.dtype), tensor)


def _tied_names(skeleton: nn.Module) -> list[tuple[str, ...]]:
    """Names that stand for one parameter, group by group."""
    groups: dict[int, list[str]] = {}
    for name, parameter in skeleton.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [tuple(names) for names in groups.values() if len(names) > 1]


def _check_known(adapter: Adapter, name: str, steps: dict[str, Step], tied: list[tuple[str, ...]], skeleton: nn.Module) -> None:
    if name in steps or any(name in group and any(other in steps for other in group) for group in tied):
        return
    known = {parameter for parameter, _ in skeleton.named_parameters(remove_duplicate=False)}
    if name in known:
        raise NeedsWholeModel(f"the base's files do not hold {name} under that name")
    said = f' (it was trained on "{adapter.base}")' if adapter.base else ""
    raise ModelError(
        f"{adapter.folder}: the adapter changes {name}, which the base model does not have{said}; "
        "name the base it was trained on under model_name_or_path"
    )


def _stored_names(name: str, steps: dict[str, Step], ties: list[tuple[str, ...]]) -> list[str]:
    """The names under which a tensor is stored: its own, or another of its tie."""
    group = next((group for group in ties if name in group), (name,))
    return [one for one in group if one in steps]


def _untie(name: str, steps: dict[str, Step], ties: list[tuple[str, ...]]) -> bool:
    """Give every name of a tied tensor that is about to be changed alone a step of its own, from what is stored now."""
    group = next((group for group in ties if name in group), None)
    if group is None:
        return False
    stored = next(steps[other] for other in group if other in steps)
    if stored.slot.name not in group:
        raise NeedsWholeModel(f"a tied weight that the base's files name {stored.slot.name} is to be written twice")
    for other in group:
        steps.setdefault(other, replace(stored, slot=replace(stored.slot, name=other)))
    ties.remove(group)
    return True


def _added(adapter: Adapter, name: str, step: Step, addition: Addition, skeleton: nn.Module) -> Step:
    transposed = isinstance(skeleton.get_submodule(name.removesuffix(".weight")), Conv1D | nn.Embedding)
    wanted = (addition.b.shape[0], addition.a.shape[1])
    seen = step.slot.shape[::-1] if transposed else step.slot.shape
    if seen != wanted:
        _refuse_shape(adapter, name, wanted, seen)
    return replace(step, additions=(*step.additions, addition), transposed=transposed)


def _replaced(adapter: Adapter, step: Step, tensor: Stored) -> Step:
    seen, brought = step.slot.shape, tensor.shape
    if len(seen) != len(brought) or seen[1:] != brought[1:] or (seen != brought and len(seen) != 2):
        _refuse_shape(adapter, step.slot.name, brought, seen)
    return Step(replace(step.slot, shape=brought), tensor)


def _refuse_shape(adapter: Adapter, name: str, wanted: tuple[int, ...], seen: tuple[int, ...]) -> None:
    said = f' (it was trained on "{adapter.base}")' if adapter.base else ""
    raise ModelError(
        f"{adapter.folder}: the adapter changes {name} of shape {list(wanted)}, but the base's is {list(seen)}: "
        f"it belongs to another base{said}; name it under model_name_or_path"
    )


def _new_rows(base: dict[str, Stored], steps: dict[str, Step], skeleton: nn.Module) -> int | None:
    """The vocabulary's new size where a whole tensor of another length was brought; None where nothing was resized."""
    resized = {name: step.slot.shape[0] for name, step in steps.items() if name in base and step.slot.shape != base[name].shape}
    if not resized:
        return None
    ends = (skeleton.get_input_embeddings(), skeleton.get_output_embeddings())
    names = {f"{name}.weight" for name, module in skeleton.named_modules() if any(module is end for end in ends)}
    rows = {steps[name].slot.shape[0] for name in names if name in steps}
    if set(resized) - names or len(rows) != 1:
        raise ExportError(
            f"the adapters bring tensors of other lengths than the base's: {resized}. Only input and output embeddings "
            "may grow, both to the same number of tokens."
        )
    return rows.pop()
