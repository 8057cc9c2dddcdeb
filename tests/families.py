"""The causal architectures of transformers that the catalogued families use: a tiny random model of each. No test stands here.

Does not know what is asked of them: tests/architectures.py examines them, docs/make_models.py writes what was found.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB = 99
COMMON = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
SHARED = {**EXPERTS, "shared_expert_intermediate_size": 16}
ROUTED = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    "n_shared_experts": 1,
}  # fmt: skip
LATENT = {
    "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "kv_lora_rank": 8, "q_lora_rank": 8,
    "num_key_value_heads": 4, "head_dim": 4,
}  # fmt: skip
SPARSE = {"mlp_layer_types": ["dense", "sparse"]}
INDEXED = {"index_topk": 4, "index_head_dim": 8, "index_n_heads": 8}
WINDOWS = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
DELTA = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
KIMI = {
    "num_experts": 4, "num_experts_per_token": 2, "moe_intermediate_size": 16, "num_expert_group": 1, "topk_group": 1,
    "linear_head_dim": 8, "linear_num_heads": 4, "layer_types": ["linear_attention", "full_attention"], **SPARSE,
}  # fmt: skip

QKVO, GATED = "q_proj k_proj v_proj o_proj", "gate_proj up_proj down_proj"
MLA = "q_a_proj q_b_proj kv_a_proj_with_mqa kv_b_proj o_proj"
BIG_FOUR = "query_key_value dense dense_h_to_4h dense_4h_to_h"


@dataclass(frozen=True)
class Family:
    """used_by: catalogued families; "" where none uses it. targets: last names of what `lora_target: all` adapts.

    left: last names of linear layers it leaves out. experts: whether it holds them as fused weights, which are left out too.
    """

    used_by: str
    settings: dict[str, Any] = field(default_factory=dict)
    targets: str = f"{QKVO} {GATED}"
    left: str = ""
    experts: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family(
        "Llama 1 to 3, Chinese-Llama-2, Vicuna, Yi, DeepSeek LLM, Math and Coder, DeepSeek-R1-Distill-Llama, OpenChat-3.6, "
        "OpenCoder, Seed-Coder, SmolLM 1 and 2, Solar, XuanYuan, the text part of LLaVA, LLaVA-NeXT, Yi-VL, Video-LLaVA"
    ),
    "qwen2": Family(
        "Qwen1.5, 2, 2.5, QwQ, DeepSeek-R1-Distill-Qwen, Kimi-Dev, VibeThinker, the text part of InternVL, LLaVA-NeXT-Qwen"
    ),
    "qwen2_moe": Family("Qwen1.5-MoE, Qwen2-57B-A14B", SHARED, f"{QKVO} {GATED}", "shared_expert_gate", experts=True),
    "qwen3": Family("Qwen3, the text part of InternVL 3.5"),
    "qwen3_moe": Family("Qwen3-30B-A3B and 235B-A22B, AgentWorld", {**EXPERTS, "output_router_logits": True}, QKVO, experts=True),
    "qwen3_next": Family(
        "Qwen3-Next", {**SHARED, **DELTA}, f"in_proj_ba in_proj_qkvz out_proj {QKVO}", f"{GATED} shared_expert_gate", experts=True
    ),
    "qwen3_5_text": Family("Qwen3.5 (text)", DELTA, f"in_proj_a in_proj_b in_proj_qkv in_proj_z out_proj {QKVO} {GATED}"),
    "qwen3_5_moe_text": Family(
        "Qwen3.5-MoE (text)",
        {**SHARED, **DELTA},
        f"in_proj_a in_proj_b in_proj_qkv in_proj_z out_proj {QKVO} {GATED}",
        "shared_expert_gate",
        experts=True,
    ),
    "mistral": Family(
        "Mistral, Codestral, Mistral-Small, Devstral, Ministral 8B, Breeze, OpenChat, Zephyr, the text part of Pixtral and "
        "LLaVA-NeXT-Mistral",
        {"sliding_window": 3},
    ),
    "mixtral": Family("Mixtral", {**LOCAL_EXPERTS, "output_router_logits": True}, QKVO, experts=True),
    "ministral": Family("Ministral 8B (converted)", WINDOWS),
    "ministral3": Family(
        "Ministral 3 (text)",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 2.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            }
        },
    ),
    "gemma": Family("Gemma, CodeGemma, the text part of PaliGemma"),
    "gemma2": Family("Gemma 2, the text part of PaliGemma 2", {"final_logit_softcapping": 2.0, "sliding_window": 4}),
    "gemma3_text": Family(
        "Gemma 3 (1B and 270M whole, the others' text part)", {"final_logit_softcapping": 1.5, "sliding_window": 4}
    ),
    "gemma3n_text": Family(
        "Gemma 3n (text)",
        {
            **WINDOWS,
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "num_kv_shared_layers": 0,
            "activation_sparsity_pattern": [0.5, 0.0],
            "final_logit_softcapping": 2.0,
        },
        f"{QKVO} {GATED} linear_left linear_right per_layer_input_gate per_layer_projection per_layer_model_projection "
        "correction_coefs prediction_coefs 0 1 2",
        "modality_router",
    ),
    "gemma4_text": Family(
        "Gemma 4 (text)",
        {
            **WINDOWS,
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0,
            "per_layer_config": {"1": {"head_dim": 16}},
            "final_logit_softcapping": 2.0,
        },
        f"{QKVO} {GATED} per_layer_input_gate per_layer_projection per_layer_model_projection",
    ),
    "gemma4_text+experts": Family(
        "Gemma 4 26B-A4B (text)",
        {
            **WINDOWS,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 16,
            "final_logit_softcapping": 2.0,
            "per_layer_config": {"1": {"head_dim": 16}},
        },
        f"{QKVO} {GATED}",
        "proj",
        experts=True,
    ),
    "deepseek_v2": Family("DeepSeek-V2, Coder-V2", {**ROUTED, **LATENT, "first_k_dense_replace": 1}, MLA, GATED, experts=True),
    "deepseek_v3": Family(
        "DeepSeek-V3, R1, Moonlight, the text part of Kimi-VL",
        {**ROUTED, **LATENT, "first_k_dense_replace": 1},
        MLA,
        GATED,
        experts=True,
    ),
    "deepseek_v32": Family(
        "DeepSeek-V3.2", {**ROUTED, **LATENT, **SPARSE, **INDEXED}, MLA, f"{GATED} wq_b wk weights_proj", experts=True
    ),
    "deepseek_v4": Family(
        "DeepSeek-V4",
        {
            **ROUTED,
            "num_key_value_heads": 1,
            "q_lora_rank": 8,
            "o_groups": 2,
            "o_lora_rank": 4,
            "index_n_heads": 2,
            "index_head_dim": 8,
            "index_topk": 4,
            "sliding_window": 4,
            "mlp_layer_types": ["hash_moe", "moe"],
            "layer_types": ["heavily_compressed_attention", "compressed_sparse_attention"],
            "qk_rope_head_dim": 4,
            "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
            "num_nextn_predict_layers": 0,
            "partial_rotary_factor": 0.5,
        },
        "q_a_proj q_b_proj kv_proj gate_proj up_proj down_proj o_b_proj",
        "o_a_proj gate_proj kv_proj q_b_proj weights_proj",
        experts=True,
    ),
    "glm": Family("GLM-4-9B (converted)", {}, f"{QKVO} gate_up_proj down_proj"),
    "glm4": Family("GLM-4-0414, GLM-Z1", {}, f"{QKVO} gate_up_proj down_proj"),
    "glm4_moe": Family("GLM-4.5, 4.6, 4.7", {**ROUTED, "first_k_dense_replace": 1}, QKVO, GATED, experts=True),
    "glm4_moe_lite": Family("GLM-4.7-Flash", {**ROUTED, **LATENT, **SPARSE}, MLA, GATED, experts=True),
    "glm_moe_dsa": Family("GLM-5", {**ROUTED, **LATENT, **SPARSE, **INDEXED}, MLA, f"{GATED} wq_b wk weights_proj", experts=True),
    "phi": Family("Phi-1.5, Phi-2", {}, "q_proj k_proj v_proj dense fc1 fc2"),
    "phi3": Family("Phi-3, 3.5, Phi-4, Phi-4-mini", {}, "qkv_proj o_proj gate_up_proj down_proj"),
    "phimoe": Family("Phi-3.5-MoE", {**LOCAL_EXPERTS, "router_jitter_noise": 0.0}, QKVO, "router", experts=True),
    "granite": Family("Granite 3", {"logits_scaling": 8.0, "embedding_multiplier": 2.0}),
    "granitemoe": Family("Granite 3 MoE", {**LOCAL_EXPERTS, "logits_scaling": 4.0}, QKVO, experts=True),
    "granitemoehybrid": Family(
        "Granite 4",
        {
            **LOCAL_EXPERTS,
            "shared_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
            "mamba_n_heads": 8,
            "mamba_d_state": 8,
            "mamba_d_head": 8,
            "mamba_chunk_size": 8,
            "logits_scaling": 4.0,
        },
        f"in_proj {QKVO} input_linear output_linear",
        "out_proj",
        experts=True,
    ),
    "cohere": Family("Command R, Aya 23", {"logit_scale": 0.25}),
    "cohere2": Family("Command R7B, Command A", {"logit_scale": 3.0, "sliding_window": 4}),
    "falcon": Family("Falcon", {"new_decoder_architecture": False, "head_dim": None}, BIG_FOUR),
    "falcon_h1": Family(
        "Falcon-H1",
        {"lm_head_multiplier": 3.0, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
        f"in_proj {QKVO} {GATED}",
        "out_proj",
    ),
    "bloom": Family("BLOOM, BLOOMZ", {"n_layer": 2, "n_head": 4}, BIG_FOUR),
    "gpt2": Family("GPT-2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}, "c_attn c_proj c_fc"),
    "gpt_oss": Family("GPT-OSS", {**LOCAL_EXPERTS, "sliding_window": 4}, QKVO, experts=True),
    "jamba": Family(
        "Jamba",
        {**EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4},
        f"in_proj x_proj out_proj {QKVO} {GATED}",
        "dt_proj",
        experts=True,
    ),
    "dbrx": Family(
        "DBRX",
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 128,
            "num_key_value_heads": None,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
        },
        "Wqkv out_proj",
        "layer",
        experts=True,
    ),
    "olmo": Family("OLMo"),
    "olmo2": Family("OLMo 2"),
    "starcoder2": Family("StarCoder2", {}, f"{QKVO} c_fc c_proj"),
    "stablelm": Family("StableLM"),
    "smollm3": Family("SmolLM3"),
    "seed_oss": Family("Seed-OSS"),
    "ernie4_5": Family("ERNIE-4.5 dense"),
    "ernie4_5_moe": Family(
        "ERNIE-4.5 MoE",
        {
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 16,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": 1,
        },
        QKVO,
        GATED,
        experts=True,
    ),
    "exaone4": Family("EXAONE 4", WINDOWS),
    "hunyuan_v1_dense": Family("Hunyuan dense 0.5B to 7B, Hunyuan-MT"),
    "hunyuan_v1_moe": Family("Hunyuan-A13B", {"num_experts": 4, "moe_topk": 2}, QKVO, f"{GATED} wg", experts=True),
    "hy_v3": Family("Hy3", {**EXPERTS, "num_shared_experts": 1, **SPARSE}, experts=True),
    "youtu": Family("Youtu, the text part of Youtu-VL", LATENT, f"{MLA} {GATED}"),
    "internlm3": Family("InternLM3"),
    "minicpm3": Family("MiniCPM3", LATENT, f"{MLA} {GATED}"),
    "minimax": Family(
        "MiniMax-M1 (converted)",
        {**LOCAL_EXPERTS, "layer_types": ["full_attention", "linear_attention"], "block_size": 4},
        f"{QKVO} qkv_proj out_proj output_gate",
        experts=True,
    ),
    "minimax_m2": Family("MiniMax-M2", LOCAL_EXPERTS, QKVO, experts=True),
    "lfm2": Family(
        "LFM2, the text part of LFM2-VL",
        {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
        "in_proj out_proj q_proj k_proj v_proj w1 w2 w3",
    ),
    "lfm2_moe": Family(
        "LFM2-8B-A1B",
        {**EXPERTS, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
        "in_proj out_proj q_proj k_proj v_proj w1 w2 w3",
        experts=True,
    ),
    "mimo_v2_flash": Family(
        "MiMo-V2-Flash", {**ROUTED, **WINDOWS, **SPARSE, "n_shared_experts": None, "v_head_dim": 8}, experts=True
    ),
    "apertus": Family(
        "Apertus", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, f"{QKVO} up_proj down_proj"
    ),
    "llama4_text": Family(
        "Llama 4 (text), MobileLLM-R1",
        {
            "intermediate_size_mlp": 48,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "attention_chunk_size": 4,
            "layer_types": ["chunked_attention", "full_attention"],
            "no_rope_layers": [1, 0],
            "moe_layers": [1],
        },
        f"{QKVO} {GATED}",
        "router",
        experts=True,
    ),
    "bailing_hybrid": Family(
        "Ling 2.5 and 3 (template bailing_v2)",
        {**KIMI, **LATENT, "q_lora_rank": None},
        f"f_proj b_proj g_proj {QKVO} kv_a_proj_with_mqa kv_b_proj {GATED}",
        experts=True,
    ),
    "kimi_linear": Family(
        "Kimi-Linear",
        {**KIMI, **LATENT, "q_lora_rank": None},
        f"f_a_proj f_b_proj b_proj g_a_proj g_b_proj {QKVO} kv_a_proj_with_mqa kv_b_proj {GATED}",
        experts=True,
    ),
    "gpt_neox": Family("", {}, BIG_FOUR),
    "gptj": Family(
        "",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 4},
        "q_proj k_proj v_proj out_proj fc_in fc_out",
    ),
    "opt": Family("", {"word_embed_proj_dim": 32, "ffn_dim": 48}, "q_proj k_proj v_proj out_proj fc1 fc2"),
    "mamba": Family("", {"state_size": 8}, "in_proj", "x_proj dt_proj out_proj"),
}

REMOTE = {
    "baichuan": "Baichuan 2",
    "bailing_moe": "Ling 1 and 2 (templates bailing, bailing_v2)",
    "chatglm": "ChatGLM3, CodeGeeX4, GLM-4-9B as first published (GLM-4-9B-hf is glm)",
    "deepseek": "DeepSeek-MoE-16B",
    "exaone": "EXAONE 3 and 3.5",
    "hunyuan": "Hunyuan-Large and 7B as first published",
    "index": "Index",
    "internlm2": "InternLM2, 2.5, the text part of older InternVL",
    "mimo": "MiMo-7B (a Qwen2 with one more layer for speculation)",
    "minicpm": "MiniCPM 1, 2, 4, the text part of older MiniCPM-V",
    "minimax_m1": "MiniMax-M1 as first published",
    "phi3small": "Phi-3-small",
    "telechat": "TeleChat2",
    "xverse": "XVERSE",
    "yuan": "Yuan 2",
}
"""model_type: families whose code comes with the model; transformers 5.23 has none."""
WHOLE = {
    "dots_ocr": ("dots.ocr (its own code)", "qwen2"),
    "ernie4_5_vl_moe": ("ERNIE-4.5-VL", ""),
    "gemma3n": ("Gemma 3n", "gemma3n_text"),
    "gemma4": ("Gemma 4", "gemma4_text"),
    "glm4v": ("GLM-4.1V", ""),
    "glm4v_moe": ("GLM-4.5V, 4.6V", ""),
    "glm_ocr": ("GLM-OCR", ""),
    "intern_s1": ("Intern-S1 (its own code)", "qwen3 qwen3_moe"),
    "internvl": ("InternVL 2.5 to 3.5", "qwen2 qwen3 qwen3_moe"),
    "keye_vl": ("Keye-VL (its own code)", "qwen3"),
    "kimi_vl": ("Kimi-VL (its own code)", "deepseek_v3"),
    "lfm2_vl": ("LFM2-VL", "lfm2"),
    "llama4": ("Llama 4", "llama4_text"),
    "llava": ("Yi-VL, Pixtral: with a tower other than CLIP's or SigLIP's", "llama mistral"),
    "llava_next": ("LLaVA-NeXT, Granite 3 Vision", "llama mistral qwen2 granite"),
    "llava_next_video": ("LLaVA-NeXT-Video", "llama mistral"),
    "minicpmv, minicpmo": ("MiniCPM-V, MiniCPM-o (their own code)", "qwen2 llama"),
    "mimo_vl": ("MiMo-VL (as qwen2_5_vl)", ""),
    "mistral3": ("Mistral-Small 3.1, Ministral 3", "mistral ministral3"),
    "mllama": ("Llama 3.2 Vision", ""),
    "moss_vl": ("MOSS-VL (its own code)", "qwen3"),
    "paligemma": ("PaliGemma 1 and 2", "gemma gemma2"),
    "qwen2_5_omni": ("Qwen2.5-Omni", ""),
    "qwen3_vl_moe": ("Qwen3-VL with experts", ""),
    "qwen3_omni_moe": ("Qwen3-Omni", ""),
    "qwen3_5, qwen3_5_moe": ("Qwen3.5", "qwen3_5_text qwen3_5_moe_text"),
    "video_llava": ("Video-LLaVA", "llama"),
    "youtu_vl": ("Youtu-VL (its own code)", "youtu"),
}
"""model_type: families that see or hear and are not taken whole, and the causal architectures of their text part; "" for one of

their own."""


SEEING = {
    "qwen2_vl": ("Qwen2-VL", "qwen2_vl", "packed"),
    "qwen2_5_vl": ("Qwen2.5-VL", "qwen2_vl", "packed"),
    "qwen3_vl": ("Qwen3-VL, dense", "qwen3_vl, qwen3_vl_nothink", "packed"),
    "llava": ("LLaVA 1.5 with a tower of CLIP's or SigLIP's", "llava", "packed"),
    "gemma3": ("Gemma 3 4B and more", "gemma3", "padded where a run shows pictures"),
    "qwen2_audio": ("Qwen2-Audio: sounds, up to 30 seconds each", "qwen2_audio", "packed; all logits are formed"),
}
"""model_type: families that take pictures or sounds, their templates, and how batches are laid out."""


def tiny(family: str, **settings) -> PreTrainedModel:
    """A random fp32 model of that family in evaluation mode, always the same. A setting of None is left out."""
    torch.manual_seed(0)
    wanted = {**COMMON, **FAMILIES[family].settings, **settings}
    kind = family.partition("+")[0]
    config = AutoConfig.for_model(kind, **{name: value for name, value in wanted.items() if value is not None})
    module = AutoModelForCausalLM.from_config(config).eval()
    for weight in module.parameters():
        if weight.dim() > 1:
            weight.data.mul_(4)  # so that what attends to what shows in the logits
    return module
