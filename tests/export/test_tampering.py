"""The check of an export can fail: files altered between being written and being judged, one way at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hone.errors import ExportError
from hone.export import job
from hone.export.means import differing, row_means
from tests.export.whole import leftovers, run_export
from tests.families import tiny


def alter(change: Callable[[dict[str, torch.Tensor]], None], file: str = "model.safetensors") -> Callable[[Path], None]:
    """A change of the tensors of one file, which stays a sound file."""

    def harm(draft: Path) -> None:
        tensors = load_file(draft / file)
        change(tensors)
        save_file(tensors, draft / file, {"format": "pt"})

    return harm


def zero_row(name: str, row: int) -> Callable[[Path], None]:
    return alter(lambda tensors: tensors[name][row].zero_())


def swap_rows(tensors: dict[str, torch.Tensor]) -> None:
    weight = tensors["model.embed_tokens.weight"]
    weight[[300, 301]] = weight[[301, 300]]


def export_harmed(base: Path, adapters: list[Path], out: Path, monkeypatch, harm: Callable[[Path], None], **settings) -> str:
    """What is said of an export whose files are harmed once they are written."""
    merge = job.merge

    def harmed(recipe, draft, **named):
        written = merge(recipe, draft, **named | settings)
        harm(draft)
        return written

    monkeypatch.setattr(job, "merge", harmed)
    with pytest.raises(ExportError) as caught:
        run_export(base, adapters, out, dtype="bfloat16")
    assert not out.exists()
    return str(caught.value)


ALTERED = {
    "row of a projection": (zero_row("model.layers.1.mlp.down_proj.weight", 5), "model.layers.1.mlp.down_proj.weight (1 rows)"),
    "row of a token no text has": (zero_row("model.embed_tokens.weight", 300), "model.embed_tokens.weight (1 rows)"),
    "one number of a norm": (zero_row("model.norm.weight", 3), "model.norm.weight (1 rows)"),
    "two tokens exchanged": (alter(swap_rows), "model.embed_tokens.weight (2 rows)"),
    "a tensor doubled": (alter(lambda tensors: tensors["lm_head.weight"].mul_(2)), "lm_head.weight (420 rows)"),
}


@pytest.mark.parametrize(("harm", "said"), ALTERED.values(), ids=ALTERED)
def test_an_altered_tensor_is_found_and_named(tiny_model_dir, make_adapter, tmp_path, monkeypatch, harm, said) -> None:
    """In bfloat16, where logits may differ by half a standard deviation: the weights themselves tell."""
    message = export_harmed(tiny_model_dir, [make_adapter(tiny_model_dir, "one")], tmp_path / "out", monkeypatch, harm)
    assert "parity FAILED" in message and f"1 weights differ by more than rounding: {said}" in message
    assert leftovers(tmp_path) == ["out.failed"]


def truncate(draft: Path) -> None:
    file = sorted(draft.glob("model-*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-100])


def point_elsewhere(draft: Path) -> None:
    file = draft / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"]["model.norm.weight"] = next(name for name in files if name != index["weight_map"]["model.norm.weight"])
    file.write_text(json.dumps(index))


def drop_tensor(draft: Path) -> None:
    alter(lambda tensors: tensors.pop("model.norm.weight"))(draft)


@pytest.mark.parametrize(
    ("harm", "shard_bytes", "said"),
    [
        (truncate, 30_000, "cannot be read as safetensors"),
        (point_elsewhere, 30_000, "model.norm.weight is in model-0000"),
        (drop_tensor, 10**9, "the files hold 20 tensors"),
    ],
    ids=["truncated", "index", "dropped"],
)
def test_harmed_files_are_found(tiny_model_dir, tmp_path, monkeypatch, harm, shard_bytes, said) -> None:
    """transformers reads a folder whose index points elsewhere; others do not."""
    assert said in export_harmed(tiny_model_dir, [], tmp_path / "out", monkeypatch, harm, shard_bytes=shard_bytes)
    assert leftovers(tmp_path) == []


def test_an_expert_that_no_text_is_sent_to_is_seen() -> None:
    trained, exported = tiny("qwen3_moe"), tiny("qwen3_moe")
    assert differing(row_means(trained), row_means(exported), dtype="F32") == {}
    name, weight = next((name, weight) for name, weight in exported.named_parameters() if weight.dim() == 3)
    weight.data[3, 7] = 0
    assert differing(row_means(trained), row_means(exported), dtype="BF16") == {name: 1}


@pytest.mark.parametrize(("dtype", "code"), [(torch.bfloat16, "BF16"), (torch.float16, "F16")])
def test_rounding_is_not_a_difference(dtype, code) -> None:
    """Of weights as small as 1e-6, too, which F16 holds with few bits."""
    trained, exported = tiny("llama"), tiny("llama")
    for module in (trained, exported):
        module.lm_head.weight.data.mul_(1e-6)
    assert differing(row_means(trained), row_means(exported.to(dtype)), dtype=code) == {}
    assert set(differing(row_means(trained), row_means(exported), dtype="F32")) != set()


def test_means_by_hand() -> None:
    """A weight and its negative have the same absolute mean and opposite signed ones."""
    linear = torch.nn.Linear(3, 1, bias=False)
    linear.weight.data = torch.tensor([[1.0, -2.0, 4.0]])
    means = row_means(linear)["weight"]
    assert means[0, 0] == pytest.approx(7 / 3) and round(3 * abs(means[0, 1].item())) in (1, 3, 5, 7)
    other = torch.nn.Linear(3, 1, bias=False)
    other.weight.data = -linear.weight.data
    assert differing({"weight": means}, row_means(other), dtype="BF16") == {"weight": 1}
    assert differing({"weight": means}, {}, dtype="BF16") == {"weight": 0}
