"""Settings of the data: which sets, how they are mixed, cut, packed and cached.

Does not know the model or the way of learning.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob


class DataConfig(Section):
    """What is learned from."""

    dataset: tuple[str, ...] = knob((), "Names of the training sets, as in dataset_info.json.")
    eval_dataset: tuple[str, ...] = knob((), "Names of the evaluation sets.")
    dataset_dir: str | dict = knob("data", "Folder that holds dataset_info.json.")
    cutoff_len: int = knob(2048, "Longest sequence.", unit="tokens", gt=0)
    overlong: Literal["drop", "truncate_left", "truncate_right", "split", "error"] = knob(
        "truncate_right", "What becomes of a row longer than cutoff_len; the answer's header and stop token are always kept."
    )
    max_bad_rows: float = knob(0.1, "Share of rows that may be refused before the run fails.", ge=0, le=1)
    streaming: bool = knob(False, "Read rows as they are needed.")
    buffer_size: int = knob(16384, "Rows shuffled together while streaming.", unit="rows", gt=0)
    mix_strategy: Literal["concat", "interleave_under", "interleave_over", "interleave_once"] = knob("concat", "How sets are mixed.")
    interleave_probs: tuple[float, ...] = knob((), "Share of each set when interleaving.")
    overwrite_cache: bool = knob(False, "Encode again even where the token cache holds the same data.")
    preprocessing_num_workers: int | None = knob(None, "Processes that encode.", gt=0)
    preprocessing_batch_size: int = knob(1000, "Rows encoded at a time.", unit="rows", gt=0)
    max_samples: int | None = knob(None, "Use only this many rows of each set.", unit="rows", gt=0)
    tokenized_path: str | None = knob(None, "Folder of the token cache.")
    val_size: float = knob(0.0, "Rows (above 1) or share (below 1) held back for evaluation.", ge=0)
    eval_on_each_dataset: bool = knob(False, "Report the evaluation loss of each set by itself.")
    packing: bool | None = knob(None, "Fill rows up to cutoff_len with several sequences. Left out: only for pretraining.")
    dataloader_num_workers: int = knob(0, "Processes that prepare batches.", ge=0)
