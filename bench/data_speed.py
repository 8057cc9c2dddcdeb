"""Samples a second that data preparation takes: `python bench/data_speed.py SHARED_DATA_DIR [rounds]`.

Knows no settings but the usual ones. hone's side is all of it: read, rendered, encoded, labelled, counted, written to the token
cache. The yardstick is what a script would do: transformers' apply_chat_template and tokenizer, a sample at a time, no labels.
Sides alternate; CPU seconds, medians. SHARED_DATA_DIR holds LLaMA-Factory's demo sets (llamafactory) and tokenizers (tokenizers).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a process

from hone.chat.codec import build_codec
from hone.chat.message import Conversation
from hone.config import load
from hone.data.build import build_data, find_specs
from hone.data.files import open_source
from hone.data.sample import Dialog
from hone.data.shapes import to_sample
from hone.models.tokenizer import load_tokenizer
from hone.objectives.build import build_objective

CASES = (
    ("llama-3.1", "llama3", "alpaca_en_demo"),
    ("qwen3", "qwen", "alpaca_en_demo"),
    ("llama-3.1", "llama3", "alpaca_zh_demo"),
    ("llama-3.1", "llama3", "several turns"),
    ("qwen3", "qwen", "several turns"),
)


def several_turns(shared: Path, folder: Path) -> None:
    """A set of conversations of 6 messages, made of the alpaca demo: FOLDER/dataset_info.json and its file."""
    rows = json.loads((shared / "llamafactory" / "alpaca_en_demo.json").read_text())
    talks = []
    for start in range(0, len(rows) - 2, 3):
        said = [("user", rows[start + n]["instruction"]) if side == 0 else ("assistant", rows[start + n]["output"])
                for n in range(3) for side in (0, 1)]  # fmt: skip
        talks.append({"messages": [{"role": role, "content": text} for role, text in said]})
    (folder / "turns.json").write_text(json.dumps(talks))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {"file_name": "turns.json", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    (folder / "dataset_info.json").write_text(json.dumps({"several turns": entry}))


def seconds(work: Callable[[], Any], everything: bool = False) -> float:
    """CPU seconds of this process; everything: by the clock, where other processes work."""
    clock = time.perf_counter if everything else time.process_time
    started = clock()
    work()
    return clock() - started


class Case:
    """One tokenizer and set."""

    def __init__(self, shared: Path, folder: Path, case: tuple[str, str, str]):
        name, template, data = case
        place = str(folder) if data == "several turns" else str(shared / "llamafactory")
        model = shared / "tokenizers" / name
        words = [f"model_name_or_path={model}", f"template={template}", f"dataset_dir={place}", f"dataset={data}"]
        words += ["stage=sft", "do_train=true", f"output_dir={folder / 'out'}", f"tokenized_path={folder / 'cache'}"]
        self.run = load([*words, "overwrite_cache=true"], "train")
        self.again = load(words, "train")
        self.tokenizer = load_tokenizer(self.run.model)
        self.codec, self.objective = build_codec(self.run.chat, self.tokenizer), build_objective(self.run.objective)
        (spec,) = find_specs(self.run.data, self.run.data.dataset, Dialog)
        talks = [to_sample(row.value, spec, Dialog).conversation for row in open_source(spec, streaming=False).rows()]
        self.messages = [_plain(talk) for talk in talks]
        self.hone()  # templates are compiled and the tokenizer's copies made, as for any larger set

    def hone(self, workers: int = 1) -> None:
        """Encode the whole set anew."""
        data = self.run.data.model_copy(update={"preprocessing_num_workers": workers})
        build_data(data, self.objective, self.codec, names=data.dataset, seed=0)

    def reload(self) -> None:
        """Find it in the cache."""
        build_data(self.again.data, self.objective, self.codec, names=self.again.data.dataset, seed=0)

    def yardstick(self) -> None:
        """Each conversation by itself, through transformers."""
        for messages in self.messages:
            self.tokenizer(self.tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)


def _plain(talk: Conversation) -> list[dict[str, str]]:
    return [{"role": said.role, "content": said.text} for said in talk.messages]


def show(name: str, case: Case, rounds: int) -> None:
    """A line of the table."""
    found: dict[str, list[float]] = {"yardstick": [], "hone": [], "reload": [], "clock": [], "two": []}
    for _ in range(rounds):
        found["yardstick"].append(seconds(case.yardstick))
        found["hone"].append(seconds(case.hone))
        found["reload"].append(seconds(case.reload))
        found["clock"].append(seconds(case.hone, everything=True))
        found["two"].append(seconds(lambda: case.hone(2), everything=True))
    middle = {side: statistics.median(times) for side, times in found.items()}
    rates = [f"{len(case.messages) / middle[side]:,.0f}" for side in ("yardstick", "hone")]
    ratio, two = middle["yardstick"] / middle["hone"], middle["clock"] / middle["two"]
    print(f"| {name} | {rates[0]} | {rates[1]} | {ratio:.2f} | {two:.2f} | {middle['hone'] / middle['reload']:.0f} |", flush=True)


def main(shared: Path, rounds: int = 5) -> None:
    """The table."""
    print("| set | transformers, samples/s | hone, samples/s | ratio | two processes over one | from cache over encoding |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        with tempfile.TemporaryDirectory() as path:
            several_turns(shared, Path(path))
            show(f"{case[2]}, {case[0]}", Case(shared, Path(path), case), rounds)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
