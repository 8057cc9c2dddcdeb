"""Media in a sequence: as many ids for a picture, a film or a sound as the model is shown, in place of the one a format writes.

Knows no file's form and no model: a Reader does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from hone.chat.encoded import IGNORE, Encoded, Piece
from hone.chat.message import Media
from hone.chat.shown import Reader, Shown
from hone.errors import TemplateError


def expand(encoded: Encoded, parts: Sequence[Media], reader: Reader, template: str) -> Encoded:
    """The sequence with as many ids for each of `parts` as the model is shown, none of them learned.

    Raises: TemplateError where the template did not write one token for each of them; MediaError where a file cannot be read.
    """
    kind_of = {token: kind for kind, token in reader.tokens.items()}
    places = np.flatnonzero(np.isin(encoded.ids, list(kind_of)))
    written, wanted = [kind_of[token] for token in encoded.ids[places].tolist()], [part.kind for part in parts]
    if written != wanted:
        said, held = (", ".join(kinds) or "nothing" for kinds in (written, wanted))
        raise TemplateError(f"template {template} writes {said} where the conversation holds {held}: name another template")
    if not parts:
        return encoded
    stand_ins = [np.asarray(reader.stand_ins(part), np.int32) for part in parts]
    counts = np.ones(len(encoded), np.int64)
    counts[places] = [len(ids) for ids in stand_ins]
    ids, labels = np.repeat(encoded.ids, counts), np.repeat(encoded.labels, counts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    for place, own in zip(places.tolist(), stand_ins, strict=True):
        ids[starts[place] : starts[place + 1]], labels[starts[place] : starts[place + 1]] = own, IGNORE
    pieces = partial(_moved, encoded, starts)
    return replace(encoded, ids=ids, labels=labels, find_pieces=pieces, shown=Shown(tuple(parts), reader))


def _moved(encoded: Encoded, starts: np.ndarray) -> tuple[Piece, ...]:
    """The pieces of a sequence whose token t begins at starts[t] now."""
    return tuple(replace(piece, start=int(starts[piece.start]), end=int(starts[piece.end])) for piece in encoded.pieces)
