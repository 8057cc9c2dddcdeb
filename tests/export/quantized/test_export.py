"""Whole exports in few bits: layouts by hand, by the packages that read them, and parity that finds what is wrong."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hone import cli
from hone.config.model import ModelConfig
from hone.errors import ExportError, ModelError
from hone.export.quantized import job
from hone.export.quantized.walk import walk, without_weights
from hone.models.load import load_config
from tests.export.whole import run_export
from tests.families import tiny
from tests.pictures import make_model

TEXTS = ("The rain falls on roof and sings to me.", "Seven grey cats sleep under an old wooden table near Paris.") * 2


def needs(package: str) -> None:
    pytest.importorskip(package, reason="an optional package")


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are written also where the package that reads them is not installed, and parity is then not asked for."""
    monkeypatch.setattr(job, "find_spec", lambda name: True)
    monkeypatch.setattr("hone.export.trial.available_bytes", lambda _: 0)


def few(method: str, bits: int, group: int | None = None) -> dict:
    return {"export_quantization_method": method, "export_quantization_bit": bits, "export_quantization_group": group}


@pytest.mark.parametrize(("method", "bits", "group"), [("rtn", 4, 32), ("rtn", 8, None), ("gptq", 4, 32), ("awq", 4, 16)])
def test_packed_numbers_stand_for_the_merged_weights(tiny_model_dir, tmp_path, anywhere, method, bits, group) -> None:
    """Half a step at the most for rtn, a few for gptq, which moves what it loses; awq's are of scaled weights."""
    texts = TEXTS if method in ("gptq", "awq") else ()
    run_export(tiny_model_dir, [], tmp_path / "out", export=few(method, bits, group), texts=texts)
    told = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert told["quant_method"] == "compressed-tensors" and told["ignore"] == ["lm_head"]
    held, plain = load_file(tmp_path / "out/model.safetensors"), AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    off = []
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            weight, scale = module.weight, held[f"{name}.weight_scale"].float()
            assert held[f"{name}.weight_shape"].tolist() == list(weight.shape) and f"{name}.weight" not in held
            numbers = unpacked(held[f"{name}.weight_packed"], bits)[:, : weight.shape[1]] - 2 ** (bits - 1)
            wide = scale.repeat_interleave(group or weight.shape[1], -1)
            off.append(((numbers * wide - weight).abs() / wide).max().item())
    assert method == "awq" or max(off) <= (0.51 if method == "rtn" else 3)
    assert torch.equal(held["model.embed_tokens.weight"], plain.get_input_embeddings().weight)


def unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    parts = [words.to(torch.int64) >> shift & 2**bits - 1 for shift in range(0, 32, bits)]
    return torch.stack(parts, -1).flatten(1)


def test_float8_is_within_its_precision(tiny_model_dir, tmp_path, anywhere) -> None:
    """2^-4 of a number that is not too small: three bits of fraction, rounded."""
    run_export(tiny_model_dir, [], tmp_path / "out", export=few("fp8", 8))
    held, plain = load_file(tmp_path / "out/model.safetensors"), AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    for name, weight in plain.named_parameters():
        if name.endswith("_proj.weight"):
            got = held[name].float() * held[name.replace("weight", "weight_scale")].float()
            assert held[name].dtype == torch.float8_e4m3fn
            assert ((got - weight).abs() <= 2**-4 * weight.abs() + weight.abs().amax(-1, keepdim=True) * 2**-15).all()


def test_mlx_numbers_keep_the_end_of_a_group_that_is_farther_from_zero(tiny_model_dir, tmp_path, anywhere) -> None:
    run_export(tiny_model_dir, [], tmp_path / "out", export=few("mlx", 4, 32))
    told = json.loads((tmp_path / "out/config.json").read_text())
    assert told["quantization"] == {"group_size": 32, "bits": 4, "mode": "affine"} == told["quantization_config"]
    held, plain = load_file(tmp_path / "out/model.safetensors"), AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    for name in ("model.embed_tokens", "model.layers.0.mlp.down_proj", "lm_head"):
        weight, scale, bias = plain.get_submodule(name).weight, held[f"{name}.scales"], held[f"{name}.biases"]
        numbers = unpacked(held[f"{name}.weight"].view(torch.int32), 4)
        got = numbers * scale.repeat_interleave(32, -1) + bias.repeat_interleave(32, -1)
        groups, found = weight.unflatten(-1, (-1, 32)), got.unflatten(-1, (-1, 32))
        assert ((found - groups).abs() <= scale.abs().unsqueeze(-1)).all()  # the nearer end may be cut off by half a step
        far = groups.abs().argmax(-1, keepdim=True)
        assert torch.allclose(found.gather(-1, far), groups.gather(-1, far), atol=1e-6)


def test_mlx_numbers_are_those_of_mlx(tiny_model_dir, tmp_path) -> None:
    needs("mlx_lm")
    from mlx import core

    assert run_export(tiny_model_dir, [], tmp_path / "out", export=few("mlx", 4, 32)).parity.passed
    held = load_file(tmp_path / "out/model.safetensors")
    weight = AutoModelForCausalLM.from_pretrained(tiny_model_dir).model.layers[0].mlp.up_proj.weight.detach()
    theirs = core.quantize(core.array(weight.numpy()), group_size=32, bits=4)
    for ours, their in zip(("weight", "scales", "biases"), theirs, strict=True):
        mine = held[f"model.layers.0.mlp.up_proj.{ours}"]
        got = torch.tensor(their.tolist(), dtype=torch.float64)
        assert torch.allclose(mine.to(torch.float64), got, rtol=1e-6), ours


def test_plain_safetensors_are_what_mlx_reads(tiny_model_dir, make_adapter, tmp_path) -> None:
    """1e-4 of the largest logit: both in fp32."""
    needs("mlx_lm")
    from hone.export.quantized.mlx import MlxModel

    run_export(tiny_model_dir, [make_adapter(tiny_model_dir, "one")], tmp_path / "out")
    ids = [1, 40, 50, 60, 7]
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(torch.tensor([ids])).logits[0]
    assert (MlxModel(tmp_path / "out").logits(ids) - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_nf4_is_what_bitsandbytes_makes(tiny_model_dir, make_adapter, tmp_path, monkeypatch) -> None:
    """Of the merged model, loaded and quantized by transformers: the same tensors in every bit.

    Parity is asked for of the base alone: a random adapter's effect is as small here as the rounding of 4 bits.
    """
    needs("bitsandbytes")
    report = run_export(tiny_model_dir, [], tmp_path / "base", export=few("bnb", 4))
    assert report.parity.passed and report.dtype == "nf4"
    monkeypatch.setattr("hone.export.trial.available_bytes", lambda _: 0)
    adapter = make_adapter(tiny_model_dir, "one")
    run_export(tiny_model_dir, [adapter], tmp_path / "out", export=few("bnb", 4))
    run_export(tiny_model_dir, [adapter], tmp_path / "plain")
    told = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=told).save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "theirs"))
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if "quant_state" not in name)


@pytest.mark.parametrize("export", [few("rtn", 4, 32), few("gptq", 4, 32), few("awq", 4, 32), few("fp8", 8)], ids=str)
def test_it_is_loaded_again_by_transformers(tiny_model_dir, make_adapter, tmp_path, export, capsys) -> None:
    needs("compressed_tensors")
    texts = TEXTS if export["export_quantization_method"] in ("gptq", "awq") else ()
    report = run_export(tiny_model_dir, [make_adapter(tiny_model_dir, "one")], tmp_path / "out", export=export, texts=texts)
    assert report.parity.passed and report.parity.carried == pytest.approx(1, abs=0.1)
    assert report.parity.max_difference > 1e-4, "nothing was quantized"


def test_a_layer_that_was_exchanged_fails(tiny_model_dir, tmp_path, monkeypatch) -> None:
    """The limits of few bits are wide, but they find another model."""
    needs("compressed_tensors")
    original = job._Work.read

    def exchanged(work, name: str) -> torch.Tensor:
        return original(work, name.replace("layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"))

    monkeypatch.setattr(job._Work, "read", exchanged)
    monkeypatch.setattr(job._Work, "write", lambda work, name, weight, own=job._Work.write: own(work, name, weight * 3))
    with pytest.raises(ExportError, match="parity FAILED"):
        run_export(tiny_model_dir, [], tmp_path / "out", export=few("rtn", 4, 32))


def test_experts_and_odd_rows_are_told(tmp_path, tiny_tokenizer, tiny_model_dir, anywhere) -> None:
    module = tiny("qwen3_moe", vocab_size=len(tiny_tokenizer))
    module.save_pretrained(tmp_path / "moe")
    tiny_tokenizer.save_pretrained(tmp_path / "moe")
    with pytest.raises(ExportError, match="mixture of experts"):
        run_export(tmp_path / "moe", [], tmp_path / "out", export=few("rtn", 8))
    with pytest.raises(ExportError, match="export_quantization_group"):
        run_export(tiny_model_dir, [], tmp_path / "out", export=few("rtn", 4, 127))


def test_most_weights_left_are_a_warning(tiny_model_dir, tmp_path, anywhere, capsys) -> None:
    """Rows of the tiny Llama have 32 numbers, and those of down_proj alone 64."""
    report = run_export(tiny_model_dir, [], tmp_path / "out", export=few("rtn", 4, 64))
    (said,) = report.warnings
    assert said in report.lines() and "12 weights are left as they are" in said and "Only 2 are in few bits" in said
    assert "warning: 12 weights" in capsys.readouterr().err
    assert report.as_dict()["warnings"] == [said]


def test_pictures_in_few_bits_are_refused_by_name_before_the_texts_are_read(tmp_path, capsys) -> None:
    make_model(tmp_path / "vl", "qwen2_5_vl")
    told = ["template=qwen2_vl", "export_quantization_bit=4", "export_quantization_dataset=nowhere"]
    named = [f"model_name_or_path={tmp_path / 'vl'}", f"export_dir={tmp_path / 'out'}"]
    assert cli.main(["export", *named, *told]) == 1
    assert "models that take pictures or sounds are not written in few bits" in capsys.readouterr().err


def test_a_folder_in_mlx_s_form_is_told_to_be_mlx_lm_s(tiny_model_dir, tmp_path, anywhere) -> None:
    run_export(tiny_model_dir, [], tmp_path / "out", export=few("mlx", 4, 32))
    with pytest.raises(ModelError, match=r"is in MLX's form.*mlx_lm.chat"):
        load_config(ModelConfig(model_name_or_path=str(tmp_path / "out")))


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3"])
def test_the_walk_goes_the_model_s_own_way(family) -> None:
    """Window by window, mask by mask: every layer's outputs are those of a whole forward pass, within 1e-5 of the largest."""
    module = tiny(family).eval()
    held = dict(module.named_parameters(remove_duplicate=False))

    class Row:
        ids = torch.arange(3, 20)

    with torch.no_grad():
        wanted = module(Row.ids.unsqueeze(0), output_hidden_states=True).hidden_states
    with without_weights():
        hollow = type(module)(module.config)
    got = [reached.run() for reached in walk(hollow, held.__getitem__, [Row()], torch.device("cpu"))]
    for one, other in zip(got[:-1], wanted[1:], strict=False):
        assert (one - other).abs().max() < 1e-5 * other.abs().max()
    assert len(got) == module.config.num_hidden_layers
