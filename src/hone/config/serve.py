"""Settings of the engine that answers: in this process, llama.cpp, or a server of vLLM or SGLang.

Does not know how they are asked.
"""

from __future__ import annotations

from typing import Any, Literal

from hone.config.section import Section, knob


class ServeConfig(Section):
    """Which engine answers."""

    infer_backend: Literal["huggingface", "llamacpp", "vllm", "sglang"] = knob(
        "huggingface",
        "Engine that answers in chat and api: transformers (huggingface); llama.cpp for a GGUF file (llamacpp), which a "
        "model_name_or_path that ends in .gguf chooses by itself; or a server of vLLM or SGLang (vllm, sglang) in an "
        "environment of its own, which hone starts and asks in token ids.",
    )
    infer_environment: str | None = knob(
        None,
        "Folder of the virtual environment in which vLLM or SGLang is installed, whose pins exclude hone's. Left out, the "
        "program vllm or sglang on PATH is started.",
        example="~/envs/vllm",
    )
    infer_url: str | None = knob(
        None,
        "Address of a vLLM or SGLang server that runs already, with this model; none is started. It must see the folders of "
        "adapters.",
        level="advanced",
        example="http://127.0.0.1:8001",
    )
    infer_key: str | None = knob(
        None, "Key of the server at infer_url. It is never written to a log or a saved file.", level="advanced", secret=True
    )
    vllm_maxlen: int = knob(
        4096, "Longest prompt and answer together that vLLM holds room for, at most what the model can hold.", unit="tokens", gt=0
    )
    vllm_gpu_util: float = knob(0.7, "Share of each GPU's memory that vLLM takes. Lower it beside other programs.", gt=0, le=1)
    vllm_enforce_eager: bool = knob(
        False,
        "Starts vLLM without compiling and CUDA graphs: sooner ready, with less memory, and slower answers.",
        level="advanced",
    )
    vllm_max_lora_rank: int = knob(
        32, "Largest rank of adapters that vLLM holds room for. Raise it to the rank of the adapter that is served.", gt=0
    )
    vllm_config: dict[str, Any] = knob(
        {},
        "Further settings of `vllm serve` by their names, as a mapping.",
        level="advanced",
        example="{tensor_parallel_size: 2, swap_space: 8}",
    )
    sglang_maxlen: int = knob(
        4096, "Longest prompt and answer together that SGLang accepts, at most what the model can hold.", unit="tokens", gt=0
    )
    sglang_mem_fraction: float = knob(
        0.7, "Share of each GPU's memory that SGLang takes for weights and cache. Lower it beside other programs.", gt=0, le=1
    )
    sglang_tp_size: int = knob(-1, "GPUs over which SGLang spreads the model; -1 takes all of this machine.", ge=-1)
    sglang_config: dict[str, Any] = knob(
        {},
        "Further settings of `sglang serve` by their names, as a mapping. enable_deterministic_inference: true lets requests "
        "have a seed.",
        level="advanced",
        example="{enable_deterministic_inference: true}",
    )
    sglang_lora_backend: Literal["triton", "flashinfer", "csgmv"] = knob(
        "triton", "Kernels by which SGLang computes adapters.", level="advanced"
    )
    infer_dtype: Literal["auto", "float16", "bfloat16", "float32"] = knob(
        "auto",
        "Number format of the weights in chat, api and export. auto takes the checkpoint's own, or bfloat16 where that is "
        "float32.",
    )
