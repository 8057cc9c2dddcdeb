"""Rows of a run: whether short examples are laid together until a row is full, and how long such a row is.

Does not know how they are laid together.
"""

from __future__ import annotations

from hone.config.run import Run
from hone.data.build import TokenSet


def fills_rows(run: Run) -> bool:
    """Whether rows are filled up to cutoff_len: where asked for, and in pretraining unless refused."""
    return run.objective.kind == "pretrain" if run.data.packing is None else run.data.packing


def row_length(run: Run, tokens: TokenSet) -> int:
    """Tokens of a row that is filled: cutoff_len, or the longest example where it is of several sequences."""
    return max(run.data.cutoff_len, int(tokens.lengths.max()))
