"""A base held in 8 bits of floating point: near the original, frozen, trained on by adapters that any base takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hone.adapters.apply import attach, save_trained
from hone.adapters.fuse import Fused
from hone.config import load as load_settings
from hone.config.adapter import Full, Lora
from hone.config.model import ModelConfig, Quantization
from hone.errors import ConfigError, ModelError
from hone.models.float8 import Float8Linear, hold_in_float8
from hone.models.load import describe, load_model
from hone.models.policy import Policy
from hone.models.selftest import _rows
from tests.families import tiny

CPU, FP8 = torch.device("cpu"), Quantization(bit=8, method="fp8")


def load(folder: Path, dtype: torch.dtype = torch.float32, **settings: object) -> nn.Module:
    return load_model(ModelConfig(model_name_or_path=str(folder), **settings), dtype=dtype, device=CPU, for_training=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    torch.manual_seed(0)
    tiny("qwen2").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def logprobs(module: nn.Module) -> torch.Tensor:
    return Policy(module).token_logprobs(_rows(99, CPU)[0])


def test_it_is_near_the_original_and_takes_half_the_bytes_of_16_bits(folder):
    base = load(folder, quantization=FP8)
    layers = [inner for inner in base.modules() if isinstance(inner, Float8Linear)]
    assert layers and not any(weight.requires_grad for weight in base.parameters())
    assert type(base.get_output_embeddings()) is nn.Linear and layers[0].bias is not None
    assert describe(base).dtype == "float32/float8"
    wanted, got = logprobs(load(folder).eval()), logprobs(base.eval())
    assert 0 < (got - wanted).norm() / wanted.norm() < 0.03, "3 bits of mantissa, random weights"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_learn_on_it_as_on_the_numbers_that_it_holds(folder, dtype):
    """fp32: the same sums, 1e-5; bf16: another order of the sums of 16-bit numbers, a few hundredths of the norm."""
    held, plain = load(folder, dtype, quantization=FP8), load(folder, dtype)
    for path, inner in held.named_modules():
        if isinstance(inner, Float8Linear):
            bits = inner.weight.view(torch.float8_e4m3fn).to(dtype) * inner.scale.to(dtype).unsqueeze(1)
            plain.get_submodule(path).weight.data = bits
    gradients = []
    for base in (held, plain):
        torch.manual_seed(1)
        tuned = attach(base, Lora(), base_name="base")
        assert all(isinstance(inner, Fused) for inner in tuned.modules() if hasattr(inner, "lora_A"))
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.02)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logprobs(tuned).sum().backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in tuned.parameters() if weight.requires_grad]))
    apart = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert apart < (1e-5 if dtype == torch.float32 else 0.04)


def test_its_adapter_is_a_plain_one(folder, tmp_path):
    torch.manual_seed(0)
    tuned = attach(load(folder, quantization=FP8), Lora(), base_name=str(folder))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.02)
    wanted = logprobs(tuned.eval()).detach()
    save_trained(tuned, tmp_path / "adapter")
    named = Lora(adapter_name_or_path=(str(tmp_path / "adapter"),))
    beside = attach(load(folder, quantization=FP8), named, base_name=str(folder), trainable=False)
    torch.testing.assert_close(logprobs(beside), wanted, rtol=1e-5, atol=1e-5)
    merged = attach(load(folder), named, base_name=str(folder), trainable=False)
    assert 0 < (logprobs(merged) - wanted).norm() / wanted.norm() < 0.03, "the original base, as export merges into"


def test_whole_weights_are_not_trained_on_it(folder):
    with pytest.raises(ModelError, match="trains weights of base that are quantized"):
        attach(load(folder, quantization=FP8), Full(), base_name="base")
    with pytest.raises(ModelError, match="has no linear layers"):
        hold_in_float8(nn.Module.__new__(_Bare), CPU)


class _Bare(nn.Module):
    def get_output_embeddings(self) -> None:
        return None

    def named_modules(self, *_: object) -> list[tuple[str, nn.Module]]:
        return []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("quantization_bit=4", "fp8 has 8 bits; write quantization_bit: 8"),
        ("quantization_bit=8 use_dora=true", "use_dora: needs the lengths of the base's weights"),
        ("quantization_bit=8 finetuning_type=full", "weights in few bits cannot be trained with finetuning_type: full"),
        ("quantization_bit=8 finetuning_type=freeze", "weights in few bits cannot be trained with finetuning_type: freeze"),
    ],
)
def test_what_does_not_go_with_it_is_told(words, said):
    settings = "model_name_or_path=m dataset=d output_dir=o quantization_method=fp8".split()
    with pytest.raises(ConfigError) as caught:
        load_settings([*settings, *words.split()], "train")
    assert said in str(caught.value)
