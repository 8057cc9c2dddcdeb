"""Settings of the base model and its tokenizer: where they are, how they are loaded, how they are quantized.

Does not know whether the model will be trained, served or exported.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob


class Quantization(Section):
    """Weights held in few bits while an adapter is trained on top (QLoRA), or while the model is used."""

    bit: Literal[4, 8] = knob(
        4,
        "Holds the frozen weights in this many bits, which divides the memory they take by four (4) or two (8). Set "
        "it where the base model does not fit; needs finetuning_type lora or oft, and bitsandbytes but for quantization_method: "
        "fp8.",
        flat="quantization_bit",
        unit="bits",
    )
    method: Literal["bnb", "fp8"] = knob(
        "bnb",
        "What quantizes while loading: bitsandbytes (bnb), or, with quantization_bit: 8, hone itself, in floating point of 8 "
        "bits (fp8), without a package. On NVIDIA GPUs from Ada on, with bf16: true, its products are taken in 8 bits too, which "
        "rounds activations and has not run on a device yet; elsewhere weights are turned back for each product. A checkpoint "
        "that is already quantized needs no key.",
        flat="quantization_method",
        level="advanced",
    )
    type: Literal["nf4", "fp4"] = knob(
        "nf4",
        "Number format of 4-bit weights. nf4 fits normally distributed weights and is almost always the better one.",
        flat="quantization_type",
        level="advanced",
    )
    double: bool = knob(
        True,
        "Quantizes the scales of 4-bit weights too, which saves about 0.4 bits a weight. Turn it off on devices that "
        "cannot do it.",
        flat="double_quantization",
        level="advanced",
    )


class ModelConfig(Section):
    """The base model."""

    model_name_or_path: str = knob(
        ...,
        "Folder of the base model, its id on the hub, or its name in the catalogue (`hone models`). Every command needs it.",
        example="meta-llama/Llama-3.1-8B-Instruct",
    )
    model_revision: str = knob(
        "main", "Branch, tag or commit of the model on the hub. Name a commit to get the same files for ever.", level="advanced"
    )
    cache_dir: str | None = knob(
        None,
        "Folder where downloads are kept. Left out, the hub's own cache is used; change it where your home folder is small.",
        level="advanced",
        example="/data/hub",
    )
    trust_remote_code: bool = knob(
        False,
        "Runs Python code that comes with the model. Some models need it; it can do anything you can, so turn it on "
        "only for authors you trust.",
    )
    hf_hub_token: str | None = knob(
        None,
        "Token for private or gated models and data sets. The environment variable HF_TOKEN or `hf auth login` keep it out "
        "of your files; it is never written to a log or a saved configuration.",
        secret=True,
        example="hf_...",
    )
    ms_hub_token: str | None = knob(
        None,
        "Token for private models and data sets on ModelScope, where models come from with USE_MODELSCOPE_HUB=1 in the "
        "environment; it is never written to a log or a saved configuration.",
        secret=True,
        level="advanced",
        example="ms-...",
    )
    om_hub_token: str | None = knob(
        None,
        "Token for private models and data sets on Modelers, where models come from with USE_OPENMIND_HUB=1 in the "
        "environment; it is never written to a log or a saved configuration.",
        secret=True,
        level="advanced",
        example="om-...",
    )
    resize_vocab: bool = knob(
        False,
        "Grows the embeddings to the tokenizer's size, padded to a multiple of 64. Needed where the tokenizer has "
        "more tokens than the model; turned on by add_tokens and add_special_tokens.",
    )
    add_tokens: tuple[str, ...] = knob(
        (),
        "Ordinary tokens to add to the vocabulary, such as words of your field that would be split otherwise. Turns "
        "on resize_vocab.",
        example="<unit_mg>,<unit_ml>",
    )
    add_special_tokens: tuple[str, ...] = knob(
        (),
        "Special tokens to add to the vocabulary, such as marks of your own format. Turns on resize_vocab.",
        example="<|start_of_svg|>,<|end_of_svg|>",
    )
    train_from_scratch: bool = knob(
        False,
        "Starts from random weights of the model's shape and does not read its checkpoint. For pretraining a model of your own.",
        level="advanced",
    )
    rope_scaling: Literal["linear", "dynamic", "yarn", "llama3"] | None = knob(
        None,
        "Stretches the position code, so that text longer than the model was trained for can be used. Set it when "
        "cutoff_len is above the model's own limit, and use the same value of both in every command.",
        level="advanced",
    )
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2", "fa3"] = knob(
        "auto",
        "Attention implementation. auto takes the fastest one that is installed and right for the model: each sequence "
        "of a packed row attends by itself, without a mask of the row. sdpa and disabled (the plain one) leave packed rows "
        "to transformers, which masks them, so that you can compare; fa2 and fa3 need the flash-attn package.",
    )
    image_max_pixels: int = knob(
        768 * 768,
        "Makes a picture of more pixels smaller before the model's own processor takes it, in training as in use. The more it "
        "has, the more tokens a picture takes of most models; raise it where small print must be read.",
        unit="pixels",
        level="advanced",
        gt=0,
    )
    image_min_pixels: int = knob(
        32 * 32,
        "Makes a picture of fewer pixels larger before the model's own processor takes it.",
        unit="pixels",
        level="advanced",
        gt=0,
    )
    quantization: Quantization | None = knob(None, "Hold the frozen weights in few bits.")
