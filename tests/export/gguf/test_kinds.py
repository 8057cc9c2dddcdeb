"""Number formats: what each costs against transformers, on three architectures with real tokenizers, and who writes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hone.chat.encoded import Encoded
from hone.errors import ModelError
from hone.export.gguf.tensors import interleaved
from hone.export.parity import TOLERANCES, probe_prompts
from tests.export.gguf.conftest import IDS, difference

ROWS = [Encoded(np.arange(first, first + 60, dtype=np.int32), np.full(60, -100, np.int32)) for first in (10, 100, 200)]
REAL = [("llama", "llama-2"), ("qwen3", "qwen3"), ("mixtral", "mistral-7b-v0.3")]
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "head_dim": 64, "tie_word_embeddings": False}


@pytest.mark.parametrize(("family", "words"), REAL)
def test_real_tokenizers_and_nearly_exact_formats(write, library, shared, family, words) -> None:
    """f16 rounds a weight by 2^-11, Q8_0 by 1/254 of the largest of 32: 0.02 and 0.2 of a standard deviation after two layers.

    The ids of prompts are the codec's, by llama.cpp's own tokenizer.
    """
    tokenizer = shared / "tokenizers" / words
    module, codec, product = write(family, "f16", tokenizer=tokenizer, tie_word_embeddings=True)
    assert difference(library, product.file, module) < 0.02
    model = library.load(product.file, vocabulary_only=True)
    assert {text: model.tokenize(text) for text in probe_prompts(codec)} == probe_prompts(codec)
    model.close()


@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3_moe"])
def test_q8_0(write, library, family) -> None:
    """0.3 of a standard deviation: see above. Every expert is used: rounding sends a token to another, and its logits leap."""
    wide = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 64, "moe_intermediate_size": 32}
    module, _, product = write(family, "q8_0", **wide, **({"num_experts_per_tok": 4} if family == "qwen3_moe" else {}))
    assert difference(library, product.file, module) < 0.3
    assert "Q8_0" in product.notes[0]


@pytest.mark.parametrize("kind", ["q6_k", "q4_k_m", "iq4_xs"])
def test_formats_that_llamacpp_writes(write, library, kind) -> None:
    """Each is nearer than its tolerance, and holds what its name says."""
    rows = ROWS if kind.startswith("iq") else ()
    module, _, product = write("llama", kind, calibration=rows, **WIDE)
    assert difference(library, product.file, module) < TOLERANCES[kind].difference
    assert {"q6_k": "Q6_K", "q4_k_m": "Q4_K", "iq4_xs": "IQ4_XS"}[kind] in product.notes[0]


def test_two_bits_without_importance_are_refused_by_the_library(write) -> None:
    with pytest.raises(ModelError, match="imatrix"):
        write("llama", "iq2_xs", **WIDE)


def test_importance_is_the_mean_square_of_what_a_weight_reads(write, library) -> None:
    """Of the first layer's gate, held against a hook on transformers' module; 1e-4: sums in another order."""
    module, _, product = write("llama", "f32")
    model = library.load(product.file, exact=True)
    found = model.importance([IDS])
    model.close()
    seen = []
    module.model.layers[0].mlp.gate_proj.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0][0]))
    with torch.inference_mode():
        module(input_ids=torch.tensor([IDS]))
    wanted = seen[0].square().mean(0).numpy()
    assert np.allclose(found["blk.0.ffn_gate.weight"], wanted, rtol=1e-4)
    assert found["blk.1.ffn_down.weight"].shape == (48,)


def test_experts_have_an_importance_each(write, library) -> None:
    _, _, product = write("mixtral", "f32")
    model = library.load(product.file, exact=True)
    assert model.importance([IDS])["blk.0.ffn_down_exps.weight"].shape == (4 * 48,)
    model.close()


def test_rows_of_heads_lie_pair_by_pair() -> None:
    """One head of width 4: halves (0, 1) and (2, 3) become pairs (0, 2) and (1, 3)."""
    assert interleaved(torch.arange(8.0).reshape(8, 1), 4).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_library_that_dies_is_an_error_that_says_how(library) -> None:
    from hone.models.llamacpp.library import LlamaCpp

    other = LlamaCpp("a test")
    other._process.kill()
    with pytest.raises(ModelError, match="SIGKILL"):
        other.order("tokenize", number=0, text="x", whole=False)
