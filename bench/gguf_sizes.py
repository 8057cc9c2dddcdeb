"""How large GGUF files of real models are, in bytes: `python bench/gguf_sizes.py FOLDER ...`, folders that hold a config.json.

Does not read a weight: every tensor is made of its shape alone, and llama.cpp is asked what it would write of a file whose
weights are a hole in the disk. Needs the extra gguf and no memory to speak of.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hone.export.gguf.families import family_of, settings_of
from hone.export.gguf.kinds import KINDS
from hone.export.gguf.package import load_gguf
from hone.export.gguf.tensors import Made, plan_tensors
from hone.export.gguf.write import add_value, bytes_of, type_of
from hone.export.recipe import plan_recipe
from hone.export.source import Stored
from hone.models.llamacpp.library import LlamaCpp

WORDS = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs", "iq2_xs")


def tensors_of(folder: Path) -> tuple[str, dict, list[Made]]:
    """llama.cpp's name of the family, what it is told of the model, and every tensor of the file."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    stored = {name: Stored(folder, name, tuple(weight.shape), "BF16") for name, weight in module.state_dict().items()}
    told = config.to_dict()
    family = family_of(told)
    made, _ = plan_tensors(plan_recipe(stored, [], module, dtype="F32"), family, told)
    return family.architecture, settings_of(family, told), made


def hollow(file: Path, architecture: str, settings: dict, made: list[Made]) -> None:
    """A file with every head and no number: the disk keeps no block of what was never written."""
    gguf = load_gguf()
    writer = gguf.GGUFWriter(file, architecture)
    for key, value in settings.items():
        add_value(writer, key, value)
    writer.add_tokenizer_model("none")
    size = 0
    for one in made:
        num_bytes = bytes_of(one, "F16")
        writer.add_tensor_info(one.name, one.shape, torch.zeros(1).numpy().dtype, num_bytes, raw_dtype=type_of(one, "F16"))
        size += writer.ggml_pad(num_bytes, writer.data_alignment)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (out,) = writer.fout
    writer.write_padding(out, out.tell())
    end = out.tell() + size
    writer.close()
    with file.open("r+b") as opened:
        opened.truncate(end)


def main(folders: list[str]) -> None:
    """One line a model, GB by number format; the tokenizer's words, some megabytes, come on top."""
    print(f"{'model':<26}{'weights':>9}" + "".join(f"{word:>9}" for word in WORDS))
    with LlamaCpp("bench/gguf_sizes.py") as library:
        for folder in map(Path, folders):
            architecture, settings, made = tensors_of(folder)
            count = sum(torch.Size(one.shape).numel() for one in made)
            with tempfile.TemporaryDirectory() as place:
                file = Path(place) / "hollow.gguf"
                hollow(file, architecture, settings, made)
                sizes = [_size(library, file, made, word) for word in WORDS]
            print(f"{folder.name:<26}{count / 1e9:>8.2f}B" + "".join(f"{size / 1e9:>9.2f}" for size in sizes), flush=True)


def _size(library: LlamaCpp, file: Path, made: list[Made], word: str) -> int:
    kind = KINDS[word]
    if kind.plain:
        return sum(bytes_of(one, kind.plain) for one in made)
    return library.planned_bytes(file, kind.number)


if __name__ == "__main__":
    main(sys.argv[1:])
