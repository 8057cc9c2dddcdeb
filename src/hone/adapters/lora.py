"""LoRA through peft: additions of low rank to linear layers; and what all adapters of peft's share: continued, merged, saved.

Does not know training; only `oft` beside it knows peft too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path

from torch import nn

from hone import log
from hone.adapters.files import open_to_readers, read_tensors
from hone.adapters.folder import OWN_WEIGHTS, AdapterFolder, locate
from hone.adapters.parts import resting
from hone.adapters.pissa import convert_folder, remember_start, split_file, start_of
from hone.adapters.targets import SCORE, check_apart, check_fit, choose_targets, find_modules, score_head, ties_embeddings
from hone.adapters.unquantized import without_bitsandbytes
from hone.config.adapter import Adapted, Lora
from hone.errors import ModelError

with without_bitsandbytes():
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

# peft 0.21 asks transformers 5.23 by the old name; it means nothing to the user.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
# It fears for merging an adapter of tied embeddings, which `fold` does right and says.
warnings.filterwarnings("ignore", message="Model (has|with) `tie_word_embeddings=True`", category=UserWarning)
warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied", category=UserWarning)

_TOLD = {"r": "rank", "lora_alpha": "alpha", "oft_block_size": "blocks of"}
"""Numbers of an adapter's config that are told of one that is continued."""

OWN = "default"
"""peft's name for the adapter that is trained."""


New = Callable[[nn.Module, Adapted, str, bool], PeftModel]
"""Puts a new adapter of one kind on a module; the base's name; whether it is quantized."""


def attach_lora(module: nn.Module, adapter: Lora, *, base_name: str, trainable: bool) -> nn.Module:
    """The module with a LoRA adapter; see `attach_tuned`."""
    return attach_tuned(module, adapter, _new, base_name=base_name, trainable=trainable)


@without_bitsandbytes()
def attach_tuned(module: nn.Module, adapter: Adapted, new: New, *, base_name: str, trainable: bool) -> nn.Module:
    """The module with an adapter: adapters named are merged, all but the one continued; else `new`; see apply.attach."""
    folders = [locate(name, adapter.adapter_folder) for name in adapter.adapter_name_or_path]
    for folder in folders:
        check_fit(module, folder, base_name)
    quantized = any(not weight.is_floating_point() for weight in module.parameters())
    if not trainable:
        return _stacked(module, folders) if quantized else _merged(module, folders)
    continued = [] if adapter.create_new_adapter else folders[-1:]
    merged = folders[: len(folders) - len(continued)]
    if merged and quantized:
        raise ModelError(
            f"adapter_name_or_path: {merged[0].path} would be merged into weights held in few bits, which spoils them; "
            "export it into the base first, or leave quantization_bit out"
        )
    if continued and continued[0].kind != adapter.kind:
        raise ModelError(
            f"adapter_name_or_path: {continued[0].path} was trained with finetuning_type: {continued[0].kind}; write that to "
            "continue it, or create_new_adapter: true to merge it and train another one on top"
        )
    if continued and score_head(module) is not None and continued[0].config.get("task_type") != "SEQ_CLS":
        raise ModelError(
            f"adapter_name_or_path: {continued[0].path} has no head that scores texts, which would not be trained; write "
            "create_new_adapter: true to merge it and train another one on top"
        )
    on_meta = any(weight.is_meta for weight in module.parameters())
    if on_meta and continued:  # a draft: the shapes count, there is nothing to read into
        config = PeftConfig.from_pretrained(str(continued[0].path))
        config.inference_mode = False
        return get_peft_model(module, config, autocast_adapter_dtype=False)
    module = module if on_meta else _merged(module, merged)
    if continued:
        return _continued(module, continued[0], base_name)
    return new(module, adapter, base_name, quantized)


def last_beside(module: nn.Module, folders: list[AdapterFolder], *, base_name: str) -> nn.Module:
    """The module with the last adapter beside it, of whatever kind, and the others merged: for comparing, not for training."""
    for folder in folders:
        check_fit(module, folder, base_name)
    return _continued(_merged(module, folders[:-1]), folders[-1], base_name)


def save_adapter(module: nn.Module, folder: Path) -> None:
    """Write a plain PEFT folder: adapter_config.json, which names the base, and adapter_model.safetensors."""
    module.save_pretrained(str(folder), save_embedding_layers=False, selected_adapters=[OWN])
    if start_of(module):
        convert_folder(module, folder)
    open_to_readers(folder)


def adapter_off(module: nn.Module) -> AbstractContextManager[object]:
    """While it is held, the module computes without its adapters."""
    return module.disable_adapter()


@without_bitsandbytes()
def add_frozen(module: nn.Module, folder: AdapterFolder, name: str, base_name: str) -> None:
    """Put a saved adapter beside the one that is trained; it has no gradient and rests until `adapter_on`."""
    check_fit(module.get_base_model(), folder, base_name)
    module.load_adapter(str(folder.path), adapter_name=name, is_trainable=False, autocast_adapter_dtype=False)


@contextmanager
def adapter_on(module: nn.Module, name: str) -> Iterator[None]:
    """While it is held, the module computes with the adapter `name` in place of the one that is trained."""
    learns = {weight: weight.requires_grad for weight in module.parameters()}
    module.base_model.set_adapter(name)
    try:
        yield
    finally:
        module.base_model.set_adapter(OWN)
        for weight, was in learns.items():  # peft lets an adapter learn that it switches on
            weight.requires_grad_(was)


def load_adapter(module: nn.Module, folder: Path) -> None:
    """Read the weights of a saved adapter into a module that carries one alike; ModelError where a weight is missing."""
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelError(f"{folder} holds no adapter_model.safetensors")
    tensors = read_tensors(path)
    if start_of(module):
        tensors = split_file(module, tensors)
    try:
        outcome = set_peft_model_state_dict(module, tensors)
    except TypeError as problem:
        if "distributed_operation" not in str(problem):
            raise
        told = f"peft {version('peft')} cannot read the adapters of experts beside transformers {version('transformers')}"
        raise ModelError(f'{path}: {told}; pip install "peft>=0.20"') from problem
    own = [name for name in outcome.missing_keys if OWN in name.split(".")]  # an adapter beside it is not in its files
    missing = [name for name in own if any(mark in name for mark in (*OWN_WEIGHTS, "modules_to_save"))]
    if missing or outcome.unexpected_keys:
        raise ModelError(f"{path} does not fit the adapter of this run: {(missing + list(outcome.unexpected_keys))[0]} differs")


def _merged(module: nn.Module, folders: list[AdapterFolder]) -> nn.Module:
    """Weights fresh from their files only: bitsandbytes repacks them after a forward pass and would merge garbage."""
    for folder in folders:
        config = PeftConfig.from_pretrained(str(folder.path))
        if score_head(module) is not None and config.task_type == "CAUSAL_LM":
            config.task_type = None  # peft would look for what a model needs to write
        module = fold(PeftModel.from_pretrained(module, str(folder.path), config=config))
        log.info(f"merged {folder.path}")
    return module


def fold(tuned: PeftModel) -> nn.Module:
    """The base with the adapter merged into it. Tied embeddings come apart where the adapter changes one of them alone."""
    base = spared(tuned).get_base_model()
    tied = ties_embeddings(base)
    ends = [end for end in (base.get_input_embeddings(), base.get_output_embeddings()) if end is not None]
    if any(isinstance(end, BaseTunerLayer) for end in ends):
        first, *rest = (end.get_base_layer() if isinstance(end, BaseTunerLayer) else end for end in ends)
        for head in (head for head in rest if head.weight is first.weight):
            # peft adds to the one tensor that both are, and so changes the side that was never trained.
            head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    module = tuned.merge_and_unload(safe_merge=True)
    head = module.get_output_embeddings()
    if tied and head is not None and head.weight is not module.get_input_embeddings().weight:
        module.config.get_text_config().tie_word_embeddings = module.config.tie_word_embeddings = False
        log.once("the adapter parts the tied embeddings: input and output are two tensors in the merged model")
    return module


def _stacked(module: nn.Module, folders: list[AdapterFolder]) -> nn.Module:
    if not folders:
        return module
    if len({folder.kind for folder in folders}) > 1:
        raise ModelError(
            "adapter_name_or_path: adapters of LoRA and of OFT do not stand together beside weights in few bits; export one of "
            "them into the base first"
        )
    names = [f"adapter_{number}" for number in range(len(folders))]
    stack = PeftModel.from_pretrained(module, str(folders[0].path), adapter_name=names[0])
    for name, folder in zip(names[1:], folders[1:], strict=True):
        stack.load_adapter(str(folder.path), adapter_name=name)
    stack.base_model.set_adapter(names[::-1])  # what is nearest to the base was trained first: rotations have an order
    return stack


def _continued(module: nn.Module, folder: AdapterFolder, base_name: str) -> nn.Module:
    tuned = spared(PeftModel.from_pretrained(module, str(folder.path), is_trainable=True))
    tuned.peft_config[OWN].base_model_name_or_path = base_name
    name_head(tuned)
    made = [f"{name} {folder.config[key]}" for key, name in _TOLD.items() if folder.config.get(key)]
    log.info(f"with the adapter {folder.path}: {', '.join(made)}, as it was made")
    return tuned


def _new(module: nn.Module, adapter: Lora, base_name: str, quantized: bool) -> nn.Module:
    if adapter.pissa_init and quantized:
        raise ModelError("pissa_init decomposes the weights, which a quantized base does not hold; leave one of them out")
    if adapter.pissa_init and adapter.use_dora:
        raise ModelError("pissa_init and use_dora each change how the weights are split; leave one of them out")
    whole = trained_whole(module, adapter)
    targets = choose_targets(module, adapter.lora_target, rerouted(module), resting=resting(module, adapter))
    check_apart(module, targets, whole, pissa=adapter.pissa_init)
    on_meta = any(weight.is_meta for weight in module.parameters())
    tied = ties_embeddings(module)
    scores = score_head(module) is not None
    config = LoraConfig(
        task_type="SEQ_CLS" if scores else "CAUSAL_LM",
        r=adapter.lora_rank,
        lora_alpha=adapter.lora_alpha or 2 * adapter.lora_rank,
        lora_dropout=adapter.lora_dropout,
        target_modules=targets,
        modules_to_save=whole or None,
        use_rslora=adapter.use_rslora,
        use_dora=adapter.use_dora,
        init_lora_weights=True if on_meta else _initial(adapter),
        ensure_weight_tying=tied and bool(whole),
        fan_in_fan_out=any(type(inner).__name__ == "Conv1D" for inner in module.modules()),
    )
    tuned = spared(get_peft_model(module, config, autocast_adapter_dtype=False))
    tuned.peft_config[OWN].base_model_name_or_path = base_name
    name_head(tuned)
    if adapter.pissa_init and not on_meta:
        remember_start(tuned, get_peft_model_state_dict(tuned, save_embedding_layers=False))
    return tuned


def spared(tuned: PeftModel) -> PeftModel:
    """Where layers are recomputed, peft asks for a gradient of the embeddings' output, which nobody reads (not non-reentrant)."""
    base = tuned.get_base_model()
    if hasattr(base, "_require_grads_hook"):
        base.disable_input_require_grads()
    return tuned


def trained_whole(module: nn.Module, adapter: Adapted) -> list[str]:
    """Names of the modules that are trained whole beside the adapter: those asked for, and what grew with the vocabulary."""
    whole = list(adapter.additional_target)
    whole += [name for name in vars(module).get("resized_modules", ()) if name not in whole]
    for name in whole:
        find_modules(module, name, "additional_target")
    return whole


def name_head(tuned: PeftModel) -> None:
    """peft 0.21 trains the head that scores texts by itself and writes two names of it, one of them of other families, again
    with each time that the adapter is read.
    """
    config = tuned.peft_config[OWN]
    if config.task_type == "SEQ_CLS":
        config.modules_to_save = list(dict.fromkeys([name for name in config.modules_to_save if name != "classifier"]))
        assert SCORE in config.modules_to_save


def rerouted(module: nn.Module) -> frozenset[str]:
    """Last names of linear layers that peft 0.21, wherever it reads the adapter, takes for fused experts of the same family.

    So an addition to the shared experts or dense layers of such a family could not be read back.
    """
    found = set()
    for name in {path.rpartition(".")[-1] for path, inner in module.named_modules() if isinstance(inner, nn.Linear)}:
        probe = LoraConfig(target_modules=[name])
        try:
            convert_peft_config_for_transformers(probe, module, None)
        except ValueError:  # gate_proj without up_proj, which are one tensor there
            found.add(name)
        if name not in probe.target_modules:
            found.add(name)
    return frozenset(found)


def _initial(adapter: Lora) -> bool | str:
    if not adapter.pissa_init:
        return True
    return "pissa" if adapter.pissa_iter == -1 else f"pissa_niter_{adapter.pissa_iter}"
