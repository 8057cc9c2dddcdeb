"""LoRA layers in few products against peft's own forward of the very same layers: losses, gradients, and all they compose with.

Tolerance: 1e-5 of the largest number, the same fp32 sums in another order; exact where nothing is added up anew.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import LlamaConfig, LlamaForCausalLM

from hone.adapters import fuse
from hone.adapters.apply import attach, attach_beside, load_trained, save_trained, with_adapter, without_adapter
from hone.adapters.folder import locate
from hone.adapters.fuse import Fused
from hone.config.adapter import Freeze, Lora
from hone.config.model import ModelConfig, Quantization
from hone.data.batch import pack
from hone.kernels import lora_linear
from hone.models.checkpointing import recompute_activations
from hone.models.load import load_model
from hone.models.policy import Policy
from tests.architectures import sequences
from tests.families import tiny


def tuned(module: nn.Module, adapter: Lora, **settings) -> nn.Module:
    """An adapter moved away from its start, where it is nothing and half of the gradients are 0."""
    torch.manual_seed(1)
    module = attach(module, adapter, base_name="tiny", **settings).train()
    for name, weight in module.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight, std=0.1)
    return module


def layers(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, LoraLayer)]


@contextmanager
def by_peft(module: nn.Module) -> Iterator[None]:
    """While it is held, peft's own forward computes."""
    held = [(layer, type(layer)) for layer in layers(module) if isinstance(layer, Fused)]
    assert held, "nothing was fused"
    for layer, kind in held:
        layer.__class__ = kind.__mro__[2]
    try:
        yield
    finally:
        for layer, kind in held:
            layer.__class__ = kind


def learned(module: nn.Module, *, mixed: bool = False) -> dict[str, Tensor]:
    """The loss of a packed batch and every gradient, by name, with the same random numbers each time."""
    module.zero_grad()
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        loss = Policy(module, 0.0).token_losses(pack(sequences((9, 14, 6)))).sum()
    loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.grad is not None}
    return {"loss": loss.detach(), **gradients}


def largest_gap(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference, as a part of the largest number of its kind: the loss, or any gradient."""
    assert ours.keys() == theirs.keys() and any("lora_A" in name for name in ours)
    scale = max(float(tensor.abs().max()) for name, tensor in theirs.items() if name != "loss")
    gaps = [float((ours[name] - theirs[name]).abs().max()) for name in theirs if name != "loss"]
    return max(float((ours["loss"] / theirs["loss"] - 1).abs()), max(gaps) / scale)


def distance(ours: dict[str, Tensor], true: dict[str, Tensor]) -> float:
    """Length of the difference of all gradients, as a part of theirs."""
    names = [name for name in true if name != "loss"]
    apart, length = (
        torch.cat([one.flatten() for one in many]).norm()
        for many in ([ours[n] - true[n] for n in names], [true[n] for n in names])
    )
    return float(apart / length)


def same_as_peft(module: nn.Module, **how) -> float:
    ours = learned(module, **how)
    with by_peft(module):
        return largest_gap(ours, learned(module, **how))


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # all others in tests/models/test_architectures.py
def test_the_loss_and_all_gradients_are_peft_s(family, capsys):
    module = tuned(tiny(family), Lora(lora_rank=3))
    assert all(isinstance(layer, Fused) for layer in layers(module))
    assert "as peft does" not in capsys.readouterr().err
    assert same_as_peft(module) < 1e-5


@pytest.mark.parametrize(
    "adapter",
    [
        Lora(lora_dropout=0.3),
        Lora(use_rslora=True, lora_rank=5),
        Lora(pissa_init=True),
        Lora(lora_target=("q_proj", "lm_head")),
        Lora(additional_target=("embed_tokens", "lm_head")),
    ],
    ids=["dropout", "rslora", "pissa", "head", "whole modules"],
)
def test_every_kind_of_addition(adapter):
    """Dropout too: the same inputs are dropped."""
    assert same_as_peft(tuned(tiny("llama"), adapter)) < 1e-5


def test_mixed_precision_is_as_near_to_fp32_as_peft_is():
    """Of 12 draws of the adapter each was 1.2 times as far as the other at most, and 1.00 times in the mean."""
    exact = learned(tuned(tiny("llama").to(torch.bfloat16).float(), Lora()))
    module = tuned(tiny("llama").to(torch.bfloat16), Lora())
    ours = learned(module, mixed=True)
    assert {tensor.dtype for tensor in ours.values()} == {torch.float32}
    with by_peft(module):
        theirs = learned(module, mixed=True)
    assert distance(ours, exact) < 1.5 * distance(theirs, exact) < 0.05


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_layers_give_the_same_bits(dropout):
    kept = learned(tuned(tiny("llama"), Lora(lora_dropout=dropout)))
    module = tiny("llama")
    recompute_activations(module)
    again = learned(tuned(module, Lora(lora_dropout=dropout)))
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_adapters_are_switched_merged_and_saved_as_before(tmp_path):
    module = tuned(tiny("llama"), Lora())
    ids = torch.arange(3, 12)[None]

    @torch.no_grad()
    def logits() -> Tensor:
        return module.eval()(input_ids=ids).logits

    mine = logits()
    with torch.no_grad():
        plain = tiny("llama")(input_ids=ids).logits
    with without_adapter(module):
        assert torch.equal(logits(), plain)
    save_trained(module, tmp_path / "one")
    for weight in module.parameters():
        if weight.requires_grad:
            weight.data.mul_(0.5)
    other = logits()
    attach_beside(module, "first", locate(str(tmp_path / "one")), base_name="tiny")
    with with_adapter(module, "first"):
        assert torch.allclose(logits(), mine, atol=1e-5)
    assert torch.equal(logits(), other) and float((other - mine).abs().max()) > 0.01
    module.merge_adapter()
    assert torch.allclose(logits(), other, atol=1e-4)
    module.unmerge_adapter()
    assert torch.allclose(logits(), other, atol=1e-4)
    load_trained(module, tmp_path / "one")
    assert torch.allclose(logits(), mine, atol=1e-4), "merged into the base and taken out again, in fp32"
    twin = copy.deepcopy(module)
    assert all(isinstance(layer, Fused) for layer in layers(twin))
    assert torch.allclose(twin.merge_and_unload()(input_ids=ids).logits, mine, atol=1e-4)


def test_two_adapters_at_once_are_peft_s(tmp_path):
    module = tuned(tiny("llama"), Lora())
    save_trained(module, tmp_path / "one")
    attach_beside(module, "first", locate(str(tmp_path / "one")), base_name="tiny")
    module.base_model.set_adapter(["default", "first"])
    assert same_as_peft(module) == 0.0


def test_what_cannot_be_fused_is_told_once_and_learned_as_before(capsys):
    module = tuned(tiny("llama"), Lora(use_dora=True))
    assert not any(isinstance(layer, Fused) for layer in layers(module))
    said = "14 of 14 adapted layers are computed as peft does, slower, same result (14: DoraLinearVariant is more than"
    assert capsys.readouterr().err.count(said) == 1
    module = tuned(tiny("llama"), Lora(lora_target=("embed_tokens", "v_proj")))
    assert [isinstance(layer, Fused) for layer in layers(module)] == [False, True, True]
    assert "1 of 3 adapted layers are computed as peft does, slower, same result (1: Embedding of Embedding is no" in (
        capsys.readouterr().err
    )
    assert same_as_peft(module) < 1e-5


def test_a_kernel_that_is_wrong_is_not_used(monkeypatch, capsys):
    right = lora_linear.linear
    monkeypatch.setattr(lora_linear, "linear", lambda *parts: right(*parts).mul(1.01))
    module = tuned(tiny("llama"), Lora())
    assert not any(isinstance(layer, Fused) for layer in layers(module))
    assert "(14: a difference of 0.0" in capsys.readouterr().err


def test_the_trial_leaves_no_trace():
    torch.manual_seed(1)
    module = attach(tiny("llama"), Lora(lora_dropout=0.5), base_name="tiny")
    weights, state = {name: weight.clone() for name, weight in module.state_dict().items()}, torch.get_rng_state()
    for layer in layers(module):
        layer.__class__ = type(layer).__mro__[2]
    fuse.fuse(module)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(weights[name], weight) for name, weight in module.state_dict().items())
    assert all(weight.grad is None for weight in module.parameters())


def test_a_layer_whose_parts_are_watched_calls_them():
    module, called = tuned(tiny("llama"), Lora(lora_target=("q_proj",))), []
    first = layers(module)[0]
    for part in (first.base_layer, first.lora_A["default"]):
        part.register_forward_hook(lambda part, *_: called.append(part))
    learned(module)
    assert called == [first.base_layer, first.lora_A["default"]]


@pytest.mark.parametrize(("bits", "dtype"), [(4, torch.float32), (8, torch.float32), (4, torch.bfloat16), (8, torch.bfloat16)])
def test_a_base_in_few_bits_is_computed_as_by_itself(bits, dtype, tmp_path):
    """In bf16 two sums rounded to 8 bits, forward and backward, through one layer."""
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=99, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = ModelConfig(model_name_or_path=str(tmp_path), quantization=Quantization(bit=bits))
    base = load_model(model, dtype=dtype, device=torch.device("cpu"), for_training=True)
    module = tuned(base, Lora(lora_dropout=0.2))
    assert all(isinstance(layer, Fused) for layer in layers(module))
    mixed = dtype != torch.float32
    assert same_as_peft(module, mixed=mixed) < (0.03 if mixed else 1e-5)


@pytest.mark.parametrize("quantization", [Quantization(), Quantization(bit=8, method="fp8")], ids=["nf4", "fp8"])
def test_weights_in_few_bits_are_turned_back_for_each_pass_and_not_kept(quantization, tmp_path):
    """So the addition goes into the layer's own products, and neither the layer's forward nor its backward is needed."""
    if quantization.method == "bnb":
        pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=99, hidden_size=64, intermediate_size=192, num_hidden_layers=1, num_attention_heads=4)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = ModelConfig(model_name_or_path=str(tmp_path), quantization=quantization)
    module = tuned(load_model(model, dtype=torch.float32, device=torch.device("cpu"), for_training=True), Lora())
    layer = next(one for path, one in module.named_modules() if path.endswith("up_proj"))
    wanted = layer(torch.ones(1, 5, 64))

    def called(x: Tensor) -> Tensor:
        raise AssertionError("the layer's own forward")

    layer.base_layer.forward = called
    kept: list[int] = []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        assert torch.equal(layer(torch.ones(1, 5, 64)), wanted)
    assert max(kept) < 64 * 192, "64 inputs to 192 outputs, which are kept in their few bits alone"


def reached(module: nn.Module, ids: Tensor) -> tuple[set[str], Tensor]:
    """The modules whose input gets a gradient in a backward pass, and the first layer's input."""
    found, inputs = set(), []
    names = {inner: name for name, inner in module.named_modules()}
    linear = [inner for inner in module.modules() if isinstance(inner, nn.Linear)]

    def watch(inner: nn.Module, arguments: tuple[Tensor, ...], _: object) -> None:
        if arguments[0].requires_grad:
            found.add(names[inner])
        inputs.append(arguments[0])

    handles = [inner.register_forward_hook(watch) for inner in linear]
    module(input_ids=ids).logits.sum().backward()
    for handle in handles:
        handle.remove()
    return found, inputs[0]


@pytest.mark.parametrize("recompute", [False, True])
def test_nothing_below_the_lowest_trained_layer_has_a_gradient(recompute):
    """LoRA: not the embeddings' output, though peft asks for it where layers are recomputed. Freeze: no layer below the last."""
    ids = torch.arange(3, 12)[None]
    module = tiny("llama")
    if recompute:
        recompute_activations(module)
    _, first = reached(tuned(module, Lora()), ids)
    assert not first.requires_grad
    module = tiny("llama")
    if recompute:
        recompute_activations(module)
    found, first = reached(attach(module, Freeze(freeze_trainable_layers=1), base_name="tiny").train(), ids)
    assert not first.requires_grad and "lm_head" in found
    assert {name.split(".")[2] for name in found if "layers" in name} == {"1"}
    frozen = [weight for name, weight in module.named_parameters() if ".layers.1." not in name]
    assert len(frozen) == 12 and all(weight.grad is None for weight in frozen)


def test_a_folder_of_a_fused_layer_is_the_same_folder(tmp_path: Path):
    module = tuned(tiny("llama"), Lora())
    save_trained(module, tmp_path / "fused")
    with by_peft(module):
        save_trained(module, tmp_path / "plain")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "fused" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
