"""Environments of the programs hone is measured beside, made from their packages where they are not there yet.

Does not know what is measured.
"""

from __future__ import annotations

import shutil
import subprocess
import venv
from importlib.metadata import version
from pathlib import Path

PACKAGES = {"trl": ("trl==1.16.0", "peft==0.21.2", "liger-kernel"), "llamafactory": ("llamafactory==0.9.5", "liger-kernel")}
"""What pip is told; liger-kernel so that what it does on a CPU is seen, not that it is missing."""
ENVIRONMENTS = Path.home() / ".cache" / "hone-bench"


def python_of(peer: str, folder: Path = ENVIRONMENTS) -> Path:
    """The python of FOLDER/PEER with the torch of this environment; minutes where it is made, SystemExit where pip fails."""
    place = folder.absolute() / peer
    python = place / "bin" / "python"
    if not python.exists():
        torch = "torch==" + version("torch").partition("+")[0]  # a build for CPUs is taken where pip knows of one
        print(f"{peer}: making {place}", flush=True)
        venv.create(place, with_pip=True)
        done = subprocess.run([python, "-m", "pip", "install", "-qq", torch, *PACKAGES[peer]], check=False)
        if done.returncode:
            shutil.rmtree(place)
            raise SystemExit(f"{peer}: pip could not install {' '.join(PACKAGES[peer])} beside {torch}; its words are above")
        if peer == "llamafactory":
            do_without_cuda(python, place)
    return python


def do_without_cuda(python: Path, place: Path) -> None:
    """Take away torchvision and torchaudio's compiled part where they want CUDA and torch has none: neither would be imported.

    LLaMA-Factory imports torchaudio whatever it trains; without its compiled part that works. Text needs neither.
    """
    if subprocess.run([python, "-c", "import torchvision, torchaudio"], capture_output=True, check=False).returncode:
        subprocess.run([python, "-m", "pip", "uninstall", "-qq", "--yes", "torchvision"], check=True)
        for path in place.glob("lib/python*/site-packages/torchaudio/lib/*.so"):
            path.unlink()
