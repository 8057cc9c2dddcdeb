"""What a GPU machine without a network lacks, in one folder: `python bench/gpu/pack.py FOLDER [--data SHARED_DATA]`.

FOLDER/site: hone's requirements and the peers' that are no part of an image with torch, transformers, accelerate and peft, as
they come from their packages (of bitsandbytes the library for one CUDA alone, 4 of 200 MB). FOLDER/data: the configs, tokenizers
and texts that the cases name. Then, there: `PYTHONPATH=FOLDER/site:src python bench/gpu/run.py --data FOLDER/data --out ...`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cases import read
from inputs import DATA

PACKAGES = (
    "pydantic==2.14.4", "pydantic-core==2.50.5", "annotated-types", "typing-inspection", "typing-extensions", "datasets==5.2.0",
    "dill", "multiprocess", "trl==1.16.0", "bitsandbytes==0.50.2",
)  # fmt: skip
SYSTEMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux2014_x86_64")


def main() -> None:
    """Fetch, unpack, copy, and say how large it became."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of model_configs, tokenizers and llamafactory")
    parser.add_argument("--python", default="3.12", help="of that machine")
    parser.add_argument("--cuda", default="130", help="that its torch was built with, as bitsandbytes writes it")
    asked = parser.parse_args()
    unpack(asked.folder / "site", asked.python, asked.cuda)
    copy(asked.data, asked.folder / "data")
    size = sum(file.stat().st_size for file in asked.folder.rglob("*") if file.is_file())
    print(f"{asked.folder}: {size / 2**20:.1f} MiB")


def unpack(site: Path, python: str, cuda: str) -> None:
    """The packages, for another machine than this one."""
    with tempfile.TemporaryDirectory() as wheels:
        where = [word for system in SYSTEMS for word in ("--platform", system)]
        how = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp", *where]
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "-d", wheels, *how, *PACKAGES], check=True)
        for wheel in sorted(Path(wheels).glob("*.whl")):
            zipfile.ZipFile(wheel).extractall(site)
    for library in (site / "bitsandbytes").glob("libbitsandbytes_*.so"):
        if not library.stem.endswith((f"cuda{cuda}", "_cpu")):
            library.unlink()


def copy(data: Path, to: Path) -> None:
    """What the cases name of the data."""
    _, cases = read(Path(__file__).with_name("cases.toml"))
    names = {f"model_configs/{case.model}" for case in cases.values()} | {
        f"tokenizers/{case.tokenizer}" for case in cases.values()
    }
    for name in sorted(names):
        shutil.copytree(data / name, to / name, dirs_exist_ok=True)
    (to / "llamafactory").mkdir(exist_ok=True)
    shutil.copy(data / "llamafactory" / "alpaca_en_demo.json", to / "llamafactory")


if __name__ == "__main__":
    main()
