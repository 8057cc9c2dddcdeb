"""What stands beside the weights: config, generation config, tokenizer, licences, the model's own code, a short card.

Does not know how the weights were made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hone.config.model import ModelConfig
from hone.errors import ExportError
from hone.export.ingredients import Ingredients
from hone.export.recipe import Recipe
from hone.export.source import read_json, torch_name
from hone.export.write import Product
from hone.models.card import how_to_load, license_of, read_run, task_of
from hone.models.card import write_card as write_model_card
from hone.models.load import load_config
from hone.models.rope import stretch
from hone.models.score_head import ScoreHead

_KEPT = ("*.py", "LICENSE*", "NOTICE*", "USE_POLICY*", "preprocessor_config.json", "processor_config.json")
"""Files of the base that belong to every copy of it."""


def write_config(
    model: ModelConfig,
    base: Path,
    draft: Path,
    recipe: Recipe,
    dtype: str,
    length: int | None,
    head: ScoreHead | None,
    pad_id: int,
    quantized: dict[str, Any] | None = None,
) -> None:
    """The base's config.json with what the export changed: number format, tied embeddings, vocabulary, stretched positions.

    dtype: safetensors' name of the main number format written; length: in tokens, for rope_scaling. head: of a
    model that scores texts, which is padded with pad_id. quantized: what says so of weights in few bits.
    """
    data = read_json(base / "config.json")
    if model.rope_scaling:
        config = load_config(model, scores=head is not None)
        stretch(config, model.rope_scaling, length)
        data = config.to_dict()
    # Older readers look for torch_dtype; transformers 5 writes dtype and reads both.
    for key in {"torch_dtype", "dtype"} & data.keys() or {"dtype"}:
        data[key] = torch_name(dtype)
    if recipe.untied:
        data["tie_word_embeddings"] = False
    if recipe.rows is not None:
        data["vocab_size"] = recipe.rows
    if head is not None:
        data |= {**head.settings(), "architectures": [recipe.architecture], "pad_token_id": pad_id}
    _write_json(draft / "config.json", data | (quantized or {}))


def write_generation_config(base: Path, draft: Path, stop_ids: Sequence[int], pad_id: int | None) -> None:
    """The base's generation_config.json, which from now on stops at every token that ends an answer of the trained format."""
    file = base / "generation_config.json"
    data = read_json(file) if file.is_file() else {}
    data.pop("_from_model_config", None)  # else transformers makes the file anew from config.json
    known = data.get("eos_token_id")
    known = [] if known is None else known if isinstance(known, list) else [known]
    data["eos_token_id"] = list(dict.fromkeys([*stop_ids, *known]))
    if data.get("pad_token_id") is None and pad_id is not None:
        data["pad_token_id"] = pad_id
    _write_json(draft / "generation_config.json", data)


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, draft: Path, template: str | None) -> None:
    """The tokenizer as it was used. template: Jinja that takes the place of its own chat template, None to leave it."""
    own = tokenizer.chat_template
    if template is not None:
        tokenizer.chat_template = template
    try:
        tokenizer.save_pretrained(draft)
    except Exception as fault:  # tokenizers knows no other, also for a full disk
        raise ExportError(f"the tokenizer cannot be written: {fault}") from fault
    finally:
        tokenizer.chat_template = own
    file = draft / "tokenizer_config.json"
    data = read_json(file)
    # transformers 5 writes a class name that version 4 (and with it vLLM's and others' environments) does not know.
    if data.get("tokenizer_class") == "TokenizersBackend":
        _write_json(file, data | {"tokenizer_class": "PreTrainedTokenizerFast"})


EMBEDDING = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json")
"""What sentence-transformers reads of an embedding model; the first marks one."""


def copy_embedding(folders: Sequence[Path], draft: Path) -> None:
    """Copy what makes the last of `folders` that has it an embedding model."""
    source = next((folder for folder in reversed(folders) if (folder / EMBEDDING[0]).is_file()), None)
    for name in EMBEDDING if source else ():
        if (source / name).is_file():
            (draft / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, draft / name)


def copy_kept(base: Path, draft: Path) -> None:
    """Copy the base's licences and, for a model with code of its own, that code."""
    for pattern in _KEPT:
        for path in sorted(base.glob(pattern)):
            shutil.copyfile(path, draft / path.name)


def write_card(draft: Path, name: str, parts: Ingredients, product: Product, *, dtype: str, said: Sequence[str]) -> None:
    """README.md: what this model is made of and how, how to load it, how exactly it is the trained one. said: further lines."""
    task = "text-classification" if parts.head else task_of(load_config(parts.model))
    library, use = "transformers", how_to_load(task)
    if product.file is not None:
        library, use = "gguf", f"```sh\nllama-cli -m {product.file.name} --jinja\nollama create {name} -f Modelfile\n```\n"
    elif dtype.startswith("mlx"):
        library, use = "mlx", '```sh\nmlx_lm.chat --model "this folder"\n```\n'
    made = [f"adapter, merged: `{adapter}`" for adapter in parts.folders]
    lines = "".join(f"- {line}\n" for line in (*made, f"number format: {dtype}", *product.notes, *said))
    trained = [found for folder in (parts.base, *parts.folders) if (found := read_run(folder)).lines]
    head = {"library": library, "task": task, "license": license_of(parts.base)}
    write_model_card(draft, name, parts.name, trained, body=lines, use=use, **head)


def _write_json(file: Path, data: dict[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
