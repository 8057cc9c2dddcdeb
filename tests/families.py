"""Tiny random models of many families, a second or less each: what the policy is tested on. No test stands here."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB = 99
COMMON = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES: dict[str, dict] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 3},
    "phi3": {},
    "phi": {},
    "gemma": {},
    "gemma2": {"final_logit_softcapping": 2.0, "sliding_window": 4},
    "gemma3_text": {"final_logit_softcapping": 1.5, "sliding_window": 4},
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 2.0},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 3.0, "sliding_window": 4},
    "olmo2": {},
    "glm4": {},
    "stablelm": {},
    "starcoder2": {},
    "smollm3": {},
    "falcon_h1": {"lm_head_multiplier": 3.0, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
    "mixtral": {"num_local_experts": 4, "output_router_logits": True},
    "qwen3_moe": {**EXPERTS, "output_router_logits": True},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 4.0},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4},
    "deepseek_v3": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
        "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "kv_lora_rank": 8, "q_lora_rank": 8, "n_shared_experts": 1,
        "num_key_value_heads": 4, "head_dim": 4,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 4},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 48},
    "bloom": {"n_layer": 2, "n_head": 4},
    "falcon": {"new_decoder_architecture": False, "head_dim": None},
    "mamba": {"state_size": 8},
}  # fmt: skip


def tiny(family: str, **settings) -> PreTrainedModel:
    """A random fp32 model of that family in evaluation mode, always the same. A setting of None is left out."""
    torch.manual_seed(0)
    wanted = {**COMMON, **FAMILIES[family], **settings}
    config = AutoConfig.for_model(family, **{name: value for name, value in wanted.items() if value is not None})
    module = AutoModelForCausalLM.from_config(config).eval()
    for weight in module.parameters():
        if weight.dim() > 1:
            weight.data.mul_(4)  # so that what attends to what shows in the logits
    return module
