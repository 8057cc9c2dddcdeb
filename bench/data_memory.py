"""Peak memory of encoding a large jsonl file: `python bench/data_memory.py TOKENIZER_DIR [megabytes] [workers]`.

Knows nothing of training. Writes the file and the cache to a temporary folder and prints one JSON object.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from transformers import AutoTokenizer

from hone.chat.codec import build_codec
from hone.config.chat import ChatConfig
from hone.config.data import DataConfig
from hone.config.objective import Sft as SftConfig
from hone.data.build import build_data
from hone.objectives.sft import Sft

WORDS = "the rain falls on roof and sings to me while seven grey cats sleep under an old wooden table near Paris".split()


def write_rows(path: Path, num_bytes: int) -> int:
    """Random alpaca rows of about 1.6 kB until the file has `num_bytes`; how many there are."""
    rng, size, count = random.Random(0), 0, 0
    with path.open("w", encoding="utf-8") as file:
        while size < num_bytes:
            ask, say = (" ".join(rng.choices(WORDS, k=length)) for length in (60, 240))
            size += file.write(json.dumps({"instruction": f"{count}: {ask}", "input": "", "output": say}) + "\n")
            count += 1
    return count


def peak_mib() -> dict[str, float]:
    """Most resident memory so far, of this process and of its largest child."""
    usage = {"process": resource.RUSAGE_SELF, "largest_worker": resource.RUSAGE_CHILDREN}
    return {name: round(resource.getrusage(who).ru_maxrss / 1024, 1) for name, who in usage.items()}


def main(tokenizer_dir: str, megabytes: int = 1000, workers: int = 1) -> None:
    """Encode, and print memory before and after, rows, tokens and seconds."""
    codec = build_codec(ChatConfig(), AutoTokenizer.from_pretrained(tokenizer_dir))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        rows = write_rows(path, megabytes * 1_000_000)
        data = DataConfig(
            dataset_dir={"big": {"file_name": str(path)}},
            tokenized_path=f"{folder}/cache",
            preprocessing_num_workers=workers,
        )
        before, started = peak_mib(), time.perf_counter()
        tokens = build_data(data, Sft(SftConfig()), codec, names=("big",), seed=0)
        seconds = time.perf_counter() - started
        facts = {"file_mb": path.stat().st_size / 1e6, "rows": rows, "tokens": int(tokens.lengths.sum(dtype="int64"))}
        print(json.dumps({**facts, "seconds": round(seconds, 1), "peak_mib_before": before, "peak_mib_after": peak_mib()}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
