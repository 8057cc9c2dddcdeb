"""Environments of the programs hone is measured beside, made from their packages where they are not there yet.

Does not know what is measured.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

PACKAGES = {
    "hone": (),
    "llamafactory": ("llamafactory==0.9.5",),
    "trl": ("trl==1.16.0", "peft==0.21.2"),
    "transformers": ("transformers==5.24.0", "peft==0.21.2", "accelerate==1.15.0", "datasets==5.2.0", "bitsandbytes"),
    "unsloth": ("unsloth",),
    "axolotl": ("axolotl",),
}
"""What pip is told of each system; hone runs in the environment that runs the bench. Unsloth and Axolotl need a GPU."""
CHOOSE_TORCH = ("unsloth", "axolotl")
"""Systems that name the versions of torch they run with; the others get that of this environment."""
ENVIRONMENTS = Path.home() / ".cache" / "hone-bench"
BARE = {"torchaudio": ("2.13.0", ""), "torchvision": ("0.28.0", None)}
"""Packages LLaMA-Factory asks for whose wheels want CUDA: a version within its bounds and those of a machine's constraints, and
what stands in for the module, None for nothing at all."""


def python_of(system: str, folder: Path = ENVIRONMENTS) -> Path:
    """The python of FOLDER/SYSTEM; minutes where it is made, SystemExit where pip fails."""
    if not PACKAGES[system]:
        return Path(sys.executable)
    place = folder.absolute() / system
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        print(f"{system}: making {place}", flush=True)
        make(system, place)
    return python


def make(system: str, place: Path) -> None:
    """The environment, torch first and by itself, so that nothing later chooses another build of it."""
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place, with_pip=True)
    torch = "torch==" + version("torch").partition("+")[0]  # a build for CPUs is taken where pip knows of one
    steps = [PACKAGES[system]] if system in CHOOSE_TORCH else [(torch,), (torch, *PACKAGES[system])]
    for packages in steps:
        if subprocess.run([place / "bin" / "python", "-m", "pip", "install", "-qq", *packages], check=False).returncode:
            shutil.rmtree(place)
            raise SystemExit(f"pip could not install {' '.join(packages)}; its words are above")
        if packages == (torch,) and not has_cuda(place):
            stand_in(place)
    (place / "complete").touch()


def has_cuda(place: Path) -> bool:
    """Whether the environment's torch was built for CUDA."""
    look = "import torch; print(torch.version.cuda or '')"
    return bool(subprocess.run([place / "bin" / "python", "-c", look], capture_output=True, text=True, check=True).stdout.strip())


def stand_in(place: Path) -> None:
    """Have pip believe that torchvision and torchaudio are there, whose wheels cannot be imported beside a torch without CUDA.

    LLaMA-Factory imports torchaudio whatever it trains: an empty module will do. Text needs neither.
    """
    site = next(place.glob("lib/python*/site-packages"))
    for name, (number, source) in BARE.items():
        noted = site / f"{name}-{number}.dist-info"
        noted.mkdir()
        (noted / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        (noted / "RECORD").touch()
        if source is not None:
            (site / f"{name}.py").write_text(source)
