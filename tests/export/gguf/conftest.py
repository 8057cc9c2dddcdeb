"""llama.cpp's library, once for all tests of a module, and tiny random models of any family written as GGUF for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hone.chat.codec import build_codec
from hone.config.adapter import Full
from hone.config.chat import ChatConfig
from hone.config.export import ExportConfig
from hone.config.model import ModelConfig
from hone.models.llamacpp.library import LlamaCpp
from hone.models.tokenizer import load_tokenizer
from tests.families import tiny

WHY = "needs the extra gguf: pip install hone-llm[gguf] builds llama.cpp"
IDS = tuple(range(5, 45))
OWN = {  # what llama.cpp has no setting for, as the published models of the family have it
    "mistral": {"sliding_window": None},
    "qwen3_moe": {"norm_topk_prob": True},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3_text": {"query_pre_attn_scalar": 8},
}


def pytest_collection_modifyitems(items) -> None:
    """Every test of this folder is skipped, with the reason, where the extra is missing."""
    try:
        import gguf  # noqa: F401
        import llama_cpp  # noqa: F401
    except ModuleNotFoundError:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=WHY))


@pytest.fixture(scope="module")
def library():
    with LlamaCpp("a test") as running:
        yield running


@pytest.fixture
def write(tmp_path, tiny_tokenizer_dir):
    """write(family, kind, tokenizer=, calibration=, **settings) -> (module, codec, product) of a random model in `tmp_path`."""

    def make(family: str, kind: str, *, tokenizer: Path | None = None, calibration=(), **settings):
        from hone.export.gguf.job import write_model
        from hone.export.ingredients import gather

        words = load_tokenizer(ModelConfig(model_name_or_path=str(tokenizer or tiny_tokenizer_dir)))
        ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
        module = tiny(family, vocab_size=len(words) + 3, **{**ends, **OWN.get(family, {}), **settings})
        base, out = tmp_path / f"{family}-base", tmp_path / f"{family}-{kind}"
        out.mkdir()
        module.save_pretrained(base)
        words.save_pretrained(base)
        codec = build_codec(ChatConfig(), words)
        product = write_model(
            gather(ModelConfig(model_name_or_path=str(base)), Full()),
            ExportConfig(export_dir=str(out), export_format="gguf", gguf_type=kind),
            out,
            name="tiny",
            tokenizer=words,
            codec=codec,
            template=words.chat_template,
            device=torch.device("cpu"),
            length=None,
            calibration=calibration,
        )
        return module, codec, product

    return make


def difference(library: LlamaCpp, file: Path, module, ids=IDS) -> float:
    """Largest difference of a logit between a GGUF file and a transformers model, in the latter's standard deviations."""
    model = library.load(file, exact=True)
    ours = torch.from_numpy(model.logits(ids).copy())
    model.close()
    with torch.inference_mode():
        theirs = module(input_ids=torch.tensor([ids])).logits[0].float()
    return float((ours[:, : theirs.shape[-1]] - theirs).abs().max() / theirs.std())
