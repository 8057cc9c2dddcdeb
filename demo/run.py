"""The demo: the commands a user would type, one after the other, each with its time, and the figure that they were for.

Does not know how any of them works; it calls `hone` and compares the models before and after.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from score import score

PROJECT = Path(__file__).resolve().parents[1]
OUT = PROJECT / "demo" / "out"
BASE, TUNED, MERGED = "demo/out/base", "demo/out/tuned", "demo/out/merged"
ASK = ("--ask", "Tell me the river of Glormere.")
TRAINED = f"adapter_name_or_path={TUNED}"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", **os.environ}
"""A model this small gains little from a second thread, and where the machine is busy, threads wait for each other."""


def main() -> int:
    """Run it all; 0 where the tuned model answers more of the held-back questions than the base model did."""
    begun = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    hone("train", "demo/base.yaml", why="A base model, from random weights")
    hone("check", "demo/tune.yaml", why="What would be learned, before it costs anything")
    hone("chat", "demo/tune.yaml", *ASK, why="One question before")
    hone("train", "demo/tune.yaml", why="LoRA on questions about twenty towns the base has never read of")
    hone("chat", "demo/tune.yaml", TRAINED, *ASK, why="The same question after; it is not among the rows that were trained")
    hone("export", "demo/tune.yaml", TRAINED, f"export_dir={MERGED}", why="One model out of base and adapter, compared with both")
    before, asked = score(PROJECT / BASE)
    after, _ = score(PROJECT / MERGED)
    print(f"\nheld-back questions answered exactly: before {before}/{asked}, after {after}/{asked}")
    print(f"(asked of {BASE} and {MERGED} through plain transformers; {time.monotonic() - begun:.0f} s in all)")
    return 0 if after > before else 1


def hone(*arguments: str, why: str) -> None:
    """Print and run one command from the project's folder; the demo ends where it fails."""
    print(f"\n# {why}\n$ {shlex.join(['hone', *arguments])}", flush=True)
    begun = time.monotonic()
    program = Path(sys.executable).with_name("hone")
    done = subprocess.run([program, *arguments], cwd=PROJECT, stdin=subprocess.DEVNULL, env=ENVIRONMENT, check=False)
    if done.returncode:
        sys.exit(f"hone {arguments[0]} ended with exit code {done.returncode}")
    print(f"({time.monotonic() - begun:.1f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
