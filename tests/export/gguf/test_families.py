"""Every family that is written, against transformers: random tiny models, run by llama.cpp itself."""

from __future__ import annotations

import json

import pytest

from hone.errors import ExportError
from tests.export.gguf.conftest import difference

ROPE = {"rope_theta": 10000.0}
YARN = {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "factor": 8.0, "original_max_position_embeddings": 32}
PHI = {"original_max_position_embeddings": 4096}
PLAIN = "llama mistral mixtral qwen2 qwen3 qwen3_moe deepseek_v2 deepseek_v3 phi3 glm4 granite".split()
CASES = [
    *((family, PHI if family == "phi3" else {}) for family in PLAIN),
    ("llama", {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 2.0}}),
    ("llama", {"rope_parameters": {**ROPE, **LLAMA3, "rope_type": "llama3"}}),
    ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("qwen2", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    ("qwen3", {"rope_parameters": {**YARN, "attention_factor": 1.5}}),
    ("deepseek_v2", {"q_lora_rank": None}),
    ("deepseek_v3", {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, "norm_topk_prob": True}),
    ("deepseek_v3", {"n_routed_experts": 8, "n_group": 4, "topk_group": 2}),
]


@pytest.mark.parametrize(("family", "settings"), CASES, ids=lambda value: value if isinstance(value, str) else "-".join(value))
def test_logits_are_those_of_transformers(write, library, family, settings) -> None:
    """1e-4 of a standard deviation: sums of fp32 in another order. A weight turned wrong makes a difference of several."""
    module, _, product = write(family, "f32", **settings)
    assert difference(library, product.file, module) < 1e-4


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_logits_of_gemma(write, library, family) -> None:
    """1e-2: llama.cpp reads GELU out of a table of 16-bit floats. Windows of 4 tokens are in use on 40."""
    settings = {"layer_types": ["sliding_attention", "full_attention"]} if family == "gemma3_text" else {}
    module, _, product = write(family, "f32", **settings)
    assert difference(library, product.file, module) < 1e-2


def test_long_rotations_of_phi(write, library) -> None:
    """Two sets of factors: the short ones count in transformers for a text, and in llama.cpp for a context, of up to 2048."""
    rope = {**ROPE, "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
    told = {"rope_parameters": {**rope, "original_max_position_embeddings": 2048}, "original_max_position_embeddings": 2048}
    module, _, product = write("phi3", "f32", max_position_embeddings=4096, **told)
    assert difference(library, product.file, module) < 1e-4


def test_a_window_that_llamacpp_has_not_is_told(write) -> None:
    _, _, product = write("mistral", "f32", sliding_window=8)
    assert any("no window" in note for note in product.notes)


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("gpt2", {}, "does not know the family gpt2"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("gemma2", {"query_pre_attn_scalar": 256}, "query_pre_attn_scalar: 256"),
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 2.0}}, "rope_type dynamic"),
    ],
)
def test_what_llamacpp_computes_otherwise_is_refused(write, family, settings, words) -> None:
    with pytest.raises(ExportError, match=words):
        write(family, "f32", **settings)


def test_settings_are_written_under_llamacpps_names(write, library) -> None:
    import gguf

    _, codec, product = write("llama", "f16")
    fields = gguf.GGUFReader(product.file).fields
    assert fields["llama.attention.head_count_kv"].contents() == 2
    assert fields["tokenizer.ggml.eos_token_id"].contents() == codec.stop_ids[0]
    assert fields["tokenizer.chat_template"].contents() == codec.tokenizer.chat_template
    assert json.loads(codec.tokenizer.backend_tokenizer.to_str())["model"]["vocab"].keys() <= set(
        fields["tokenizer.ggml.tokens"].contents()
    )
