"""Settings of an export: what is written of a trained model, and where.

Does not know how anything is written.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob

GGUF_TYPES = (
    *("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_m", "q2_k"),
    *("iq4_xs", "iq4_nl", "iq3_m", "iq3_xxs", "iq2_m", "iq2_xs"),
)
"""llama.cpp's names of number formats, finest first, those with an importance matrix last."""

FEW_BITS = ("float8", "int8", "mlx8", "int4", "nf4", "mlx4")
"""Number formats of quantized safetensors, by the words of reports and cards."""


class ExportConfig(Section):
    """Where and how a merged model is written."""

    export_dir: str | None = knob(None, "Folder into which the merged model is written.", example="saves/llama3-8b/merged")
    export_format: Literal["huggingface", "gguf"] = knob(
        "huggingface",
        "What is written: safetensors that transformers, vLLM and SGLang load (huggingface), or one file that llama.cpp, Ollama "
        "and LM Studio run, with an Ollama Modelfile beside it (gguf, which needs the extra of that name).",
    )
    gguf_type: Literal[GGUF_TYPES] = knob(
        "q8_0",
        "Number format of the weights in a GGUF file. f16 and q8_0 are nearly exact; q4_k_m is a quarter of f16 and the usual "
        "choice for small machines; iq kinds are smaller still and need export_quantization_dataset.",
    )
    export_adapter_only: bool = knob(
        False,
        "Writes the LoRA adapter by itself as a GGUF file, to be put beside a GGUF file of its base (llama.cpp's --lora), in "
        "place of the merged model. Numbers are kept in f32.",
    )
    export_quantization_bit: Literal[4, 8] | None = knob(
        None,
        "Writes the weights of the layers in this many bits, as safetensors that transformers, vLLM and SGLang (mlx-lm with "
        "export_quantization_method: mlx) load. 4 needs about a quarter of the memory of 16 bits, 8 half of it.",
        unit="bits",
    )
    export_quantization_method: Literal["gptq", "awq", "rtn", "fp8", "bnb", "mlx"] = knob(
        "gptq",
        "How weights are quantized. gptq and awq read export_quantization_dataset and keep what layers give near; rtn rounds "
        "each weight to the nearest number and needs no texts; fp8 (8 bits) is for GPUs with products in float8; bnb (4 bits) "
        "writes bitsandbytes' nf4; mlx is for Apple's processors.",
    )
    export_quantization_group: int | None = knob(
        None,
        "How many weights of a row share a scale: fewer are nearer and take more room. Left out it is 128 with 4 bits, a whole "
        "row with 8, and 64 for mlx. Write a smaller one where rows are no multiple of it.",
        gt=0,
        level="advanced",
    )
    export_quantization_dataset: str | None = knob(
        None,
        "Data set or file whose texts show which weights matter most, rendered as in training: to gptq and awq what every layer "
        "reads, to a gguf_type an importance matrix. Take rows like those the model will read. gptq, awq and iq kinds need it, "
        "and the k kinds gain by it.",
        example="alpaca_en_demo",
    )
    export_quantization_nsamples: int = knob(
        128, "How many rows of export_quantization_dataset are read.", gt=0, level="advanced"
    )
    export_quantization_maxlen: int = knob(
        1024, "Tokens at which a row of export_quantization_dataset is cut.", unit="tokens", gt=0, level="advanced"
    )
    export_size: int = knob(5, "Largest file of the exported weights; a GGUF file is one.", unit="GB", gt=0)
    export_device: Literal["cpu", "auto"] = knob(
        "cpu", "Where merging is computed. auto takes the accelerator, which is faster for large models."
    )

    export_hub_model_id: str | None = knob(
        None,
        "Sends the exported folder to this repository of Hugging Face's hub, or of ModelScope's with USE_MODELSCOPE_HUB=1 in the "
        "environment, and makes it where it is not there. Nothing is sent where this is left out. Needs a token that may write "
        "(hf_hub_token, ms_hub_token).",
        example="you/llama3-8b-mine",
    )
    hub_private_repo: bool | None = knob(
        None,
        "Whether a repository that export_hub_model_id makes is private; left out it is as your account or organisation makes "
        "them.",
        level="advanced",
    )
