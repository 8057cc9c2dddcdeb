"""Settings of the data: which sets, how they are mixed, cut, packed and cached.

Does not know the model or the way of learning.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob


class DataConfig(Section):
    """What is learned from."""

    dataset: tuple[str, ...] = knob(
        (),
        "Names of the training sets, as they stand in dataset_info.json, with commas between them.",
        example="identity,alpaca_en_demo",
    )
    eval_dataset: tuple[str, ...] = knob(
        (),
        "Names of the evaluation sets. Use val_size instead to hold back a part of the training data.",
        example="alpaca_en_demo",
    )
    dataset_dir: str | dict = knob(
        "data",
        "Folder that holds dataset_info.json and the files it names. ONLINE means that the names in `dataset` are hub"
        " ids; REMOTE:<repository> takes dataset_info.json from the hub; a mapping gives its content directly.",
    )
    media_dir: str | None = knob(
        None,
        "Folder that paths of pictures, films and sounds in the rows are relative to. Left out it is dataset_dir, or the folder "
        "of a set's own file.",
        example="data/pictures",
    )
    cutoff_len: int = knob(
        2048,
        "Longest sequence in training. Memory grows with it; `hone check` shows how many rows are longer, and "
        "`overlong` says what becomes of them.",
        unit="tokens",
        gt=0,
    )
    overlong: Literal["drop", "truncate_left", "truncate_right", "split", "error"] | None = knob(
        None,
        "What becomes of a row longer than cutoff_len. truncate_right cuts the end of the text, truncate_left its "
        "start, split makes several rows, drop leaves it out, error stops. The answer's header and stop token are "
        "always kept. Left out: truncate_right, and split for pretraining that is packed.",
        example="split",
    )
    max_bad_rows: float = knob(
        0.1,
        "Share of a set's rows that may be refused before the run fails. Set 0 where every row must count; raise it "
        "for data you know is messy.",
        ge=0,
        le=1,
    )
    streaming: bool = knob(
        False,
        "Reads sets of the hub as they come instead of keeping a copy of their files. Rows are encoded before the first step and "
        "kept in the token cache, so that a run can be continued and shuffles all of them; use max_samples for a part.",
        level="advanced",
    )
    mix_strategy: Literal["concat", "interleave_under", "interleave_over", "interleave_once"] = knob(
        "concat",
        "How several sets are mixed: one after the other (concat), or drawn in turn until the first is used up "
        "(interleave_under), until the last is used up with the others repeated (interleave_over), or until every row"
        " came once (interleave_once).",
        level="advanced",
    )
    interleave_probs: tuple[float, ...] = knob(
        (),
        "Share of each set when interleaving, in the order of `dataset`. Left out, every set has the same share.",
        level="advanced",
        example="0.7,0.3",
    )
    overwrite_cache: bool = knob(
        False,
        "Encodes again even where the token cache holds the same data. Seldom needed: a change of the data, template "
        "or tokenizer is noticed by itself.",
        level="advanced",
    )
    preprocessing_num_workers: int | None = knob(
        None,
        "Processes that encode rows. Left out, one is used; raise it for large sets on machines with many cores.",
        unit="processes",
        gt=0,
    )
    preprocessing_batch_size: int = knob(
        1000, "Rows encoded at a time. Lower it where single rows are very large.", unit="rows", gt=0, level="advanced"
    )
    max_samples: int | None = knob(
        None,
        "Uses only this many rows of each set. For a quick trial; leave it out for the real run.",
        unit="rows",
        gt=0,
        example="1000",
    )
    tokenized_path: str | None = knob(
        None,
        "Folder of the token cache. Left out, it lies in the user's cache folder; set it to share encoded data between machines.",
        level="advanced",
        example="saves/tokens",
    )
    val_size: float = knob(
        0.0, "Rows (2 or more) or share (below 1) of the training data held back for evaluation.", ge=0, example="0.1"
    )
    eval_on_each_dataset: bool = knob(
        False, "Reports the evaluation loss of each set by itself beside the loss of all.", level="advanced"
    )
    packing: bool | None = knob(
        None,
        "Fills rows up to cutoff_len with several whole sequences, which never see each other. Left out, only "
        "pretraining does it. Turn it on for many short rows: an epoch has fewer, fuller steps.",
    )
