"""Settings of using a model: sampling, export, serving; and of following a run: trackers and plots.

Does not know how any of it is done.
"""

from __future__ import annotations

from typing import Any, Literal

from hone.config.section import Section, knob

GGUF_TYPES = (
    *("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_m", "q2_k"),
    *("iq4_xs", "iq4_nl", "iq3_m", "iq3_xxs", "iq2_m", "iq2_xs"),
)
"""llama.cpp's names of number formats, finest first, those with an importance matrix last."""


FEW_BITS = ("float8", "int8", "mlx8", "int4", "nf4", "mlx4")
"""Number formats of quantized safetensors, by the words of reports and cards."""


class GenerateConfig(Section):
    """How answers are drawn."""

    do_sample: bool = knob(
        True, "Draws each token at random by its probability; false takes the likeliest one, so that answers repeat exactly."
    )
    temperature: float = knob(
        0.95,
        "Sharpens (below 1) or flattens (above 1) the probabilities. Lower it for facts, raise it for ideas. "
        "Also of the answers that stage: grpo, ppo or gkd learns from, where 1 is the default.",
        gt=0,
    )
    top_p: float = knob(
        0.7,
        "Draws only from the likeliest tokens that have this probability together. 1 draws from all, which is the default "
        "with stage: grpo, ppo or gkd.",
        gt=0,
        le=1,
    )
    top_k: int = knob(
        50,
        "Draws only from this many likeliest tokens; 0 draws from all, which is the default with stage: grpo, ppo or gkd.",
        ge=0,
    )
    num_beams: int = knob(
        1,
        "Follows this many beginnings of an answer at once and keeps the likeliest (beam search). Slower, and the answer "
        "comes only when it is complete; mostly used with do_sample: false.",
        gt=0,
        level="advanced",
    )
    max_length: int = knob(
        1024, "Longest prompt and answer together; used where max_new_tokens is 0.", unit="tokens", gt=0, level="advanced"
    )
    max_new_tokens: int = knob(
        1024,
        "Longest answer. Raise it where answers are cut off. With stage: grpo, ppo or gkd the default is 256.",
        unit="tokens",
        ge=0,
    )
    repetition_penalty: float = knob(
        1.0, "Above 1 it discourages tokens that came before. 1.05 to 1.2 against loops.", gt=0, level="advanced"
    )
    length_penalty: float = knob(1.0, "In a beam search, above 0 favours long answers and below 0 short ones.", level="advanced")
    skip_special_tokens: bool = knob(
        True,
        "Leaves special tokens out of what an answer says, in the terminal and in the API; those that tell thoughts and calls "
        "are read all the same. Turn it off to see what the model really wrote.",
        level="advanced",
    )


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


class ApiConfig(Section):
    """What `hone api` gives one request, and how many may wait; address, key and name are in the environment (API_HOST ...)."""

    api_max_tokens: int = knob(
        8192,
        "Longest answer that a request may ask for; max_new_tokens is the length of those that do not say.",
        unit="tokens",
        gt=0,
    )
    api_max_choices: int = knob(16, "Most answers to one request (n, times the prompts of a completion).", gt=0)
    api_max_messages: int = knob(1024, "Most messages in one conversation, and texts in one list.", gt=0, level="advanced")
    api_max_body: float = knob(4.0, "Largest body of a request. Raise it for very long texts.", unit="MB", gt=0, level="advanced")
    api_max_waiting: int = knob(
        64, "Requests that wait for their turn; further ones are answered 429 with the time after which to try again.", ge=0
    )
    api_timeout: float = knob(
        600.0,
        "Longest time from a request's arrival to the end of its answer, waiting included. What takes longer is stopped and "
        "answered 503 or 504. Also how long a server that is told to stop waits for the answers it has begun.",
        unit="seconds",
        gt=0,
    )
    api_adapters: tuple[str, ...] = knob(
        (),
        "LoRA adapters that are served beside the base, each for the requests that write its name as model, with commas between "
        "them: NAME=FOLDER. They share the base's weights and are drawn in one batch with it; adapter_name_or_path is merged "
        "into the base before.",
        example="law=saves/law,poems=saves/poems",
    )
    api_adapter_folder: str | None = knob(
        None,
        "Folder of whose adapters POST /v1/load_lora_adapter may take one in while the server runs. Left out, it takes in none.",
        level="advanced",
        example="saves",
    )
    api_max_media: int = knob(16, "Most pictures, films and sounds in one request.", gt=0)
    api_max_media_size: float = knob(
        20.0,
        "Most that the pictures, films and sounds of one request may take together. Where the model takes any, those within the "
        "body (data: URLs) are allowed beside api_max_body.",
        unit="MB",
        gt=0,
    )
    api_max_pixels: int = knob(
        40_000_000, "Most pixels of a picture in a request; a small file may hold very many.", unit="pixels", gt=0
    )
    api_media_urls: Literal["none", "https", "http"] = knob(
        "https",
        "URLs from which pictures, films and sounds of a request are fetched: none, https, or http too. Only from public "
        "addresses: never from this machine or its networks, also not by a redirect.",
    )
    api_media_timeout: float = knob(
        15.0, "Longest time in which all files that one request names by URL are fetched.", unit="seconds", gt=0, level="advanced"
    )
    api_media_folder: str | None = knob(
        None,
        "Folder of this machine under which a request may name a picture, film or sound by its path; links that lead out of it "
        "are refused. Left out, no file is opened. SAFE_MEDIA_PATH is LLaMA-Factory's word for it.",
        example="data/media",
    )
    api_cors_origins: tuple[str, ...] = knob(
        (),
        "Web pages of other origins whose scripts may ask this server, with commas between them; * is every page. None where "
        "left out.",
        example="https://chat.example.org",
    )


class TrackConfig(Section):
    """Who is told how the run goes."""

    report_to: tuple[Literal["tensorboard", "wandb", "mlflow", "swanlab"], ...] = knob(
        (),
        "Trackers that follow the run: tensorboard, wandb, mlflow, swanlab, with commas between them; none for none of them.",
        example="tensorboard",
    )
    run_name: str | None = knob(None, "Name of the run in the trackers; output_dir where left out.", example="llama3-lora-1")
    logging_dir: str | None = knob(
        None,
        "Folder of TensorBoard's files and of MLflow's database (mlflow.db, unless MLFLOW_TRACKING_URI names another place); "
        "output_dir/runs where left out.",
        level="advanced",
        example="logs",
    )
    plot_loss: bool = knob(False, "Draws training_loss.png into output_dir at the end. Needs matplotlib.")
    swanlab_project: str = knob("llamafactory", "Project of the run in SwanLab.", level="advanced")
    swanlab_workspace: str | None = knob(None, "Workspace in SwanLab; your own where left out.", level="advanced")
    swanlab_run_name: str | None = knob(None, "Name of the run in SwanLab; run_name where left out.", level="advanced")
    swanlab_mode: Literal["cloud", "local"] = knob(
        "cloud", "Whether SwanLab keeps the run in its cloud or on this machine.", level="advanced"
    )
    swanlab_api_key: str | None = knob(
        None,
        "Key for SwanLab's cloud. `swanlab login` keeps it out of your files; it is never written to a log or a saved file.",
        level="advanced",
        secret=True,
    )
    swanlab_logdir: str | None = knob(None, "Folder of SwanLab's own files.", level="advanced")
