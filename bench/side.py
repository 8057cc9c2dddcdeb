"""One run of one system, in that system's environment: `python side.py FOLDER` reads FOLDER/job.json, writes FOLDER/result.json.

Knows no system: sides/SYSTEM.py says how each is told of the job and started. The run's place is FOLDER.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")

from watch import Done, Turns, Watch, draw_alike, processor_seconds


def main(folder: str, *turns: str) -> None:
    """Train and watch, or, where the job is to prepare data, time that alone."""
    os.chdir(folder)
    job = json.loads(Path("job.json").read_text())
    side = import_module(f"sides.{job['system']}")
    sys.path.remove(str(Path(__file__).parent))  # a file of the bench must not stand before a package of the same name
    if job["work"] == "prepare":
        prepare = side.ready(job)
        begun = (time.perf_counter(), processor_seconds())
        rows = prepare()
        result = {"wall": time.perf_counter() - begun[0], "cpu": processor_seconds() - begun[1], "rows": rows}
    else:
        draw_alike()
        told = (job["vocabulary"], job["pad_id"], job["steps"])
        watch = Watch(*told, spawned=job["spawned"], turns=Turns(*map(int, turns)))
        watch.start()
        with suppress(Done):
            side.train(job)
        result = watch.finish()
    Path("result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
