"""Encoding: the rows of one source, a chunk at a time, read into samples, encoded, cut and written to a cache entry.

Does not know where rows come from or where the entry will lie. Memory is bounded by a chunk of rows.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from hone.chat.encoded import Example
from hone.data.block import Block
from hone.data.cache import FORMAT, EntryWriter
from hone.data.catalog import DatasetSpec
from hone.data.columns import RowError
from hone.data.files import Source
from hone.data.media import written_down
from hone.data.overlong import OVERLONG_VERSION, Fitted, fit
from hone.data.report import Tally
from hone.data.sample import Pair, Passage, Rated, Sample, Task, asks_nothing, texts_of
from hone.data.shapes import SHAPES_VERSION, to_sample
from hone.data.sources import RawRow
from hone.data.workers import in_order
from hone.errors import DataError, MediaError, TemplateError

MEANINGFUL = (
    "input", "system", "history", "messages", "conversations", "tools", "images", "videos", "audios", "chosen", "rejected",
    "kto_tag",
)  # fmt: skip
"""Column names that many data sets use for what an entry may forget to name."""

_FIRST = 8
_ALIVE = 100_000
"""Objects that a chunk of rows may make before the collector looks: a few thousand rows' worth."""
_UNRENDERED = "the template cannot render it"
_UNSEEN = "a file of it cannot be read"
_PLACEHOLDER = re.compile(r"\{\{\s*(?:name|author)\s*\}\}")


@dataclass(frozen=True)
class Recipe:
    """How the rows of a set become sequences. max_rows: rows read at most; batch: rows encoded at a time."""

    spec: DatasetSpec
    objective: Any
    codec: Any
    cutoff_len: int
    overlong: str
    max_rows: int | None
    batch: int
    max_bad_rows: float

    def key(self, identity: str) -> str:
        """The name of the cache entry: a hash of the rows' identity and of all that changes what they are encoded to."""
        spec = {name: value for name, value in asdict(self.spec).items() if name not in ("name", "place", "num_samples")}
        facts = [
            FORMAT, SHAPES_VERSION, OVERLONG_VERSION, identity, spec, self.codec.fingerprint, self.objective.fingerprint,
            self.objective.sample.__name__, self.cutoff_len, self.overlong, self.max_rows,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def unread(self) -> tuple[str, ...]:
        """Names of MEANINGFUL columns that are not read as the set's shape and the objective are."""
        spec, wanted = self.spec, self.objective.sample
        unused = {"messages"} if spec.shape == "alpaca" else {"prompt", "query", "response", "history"}
        unused |= set() if wanted is Pair else {"chosen", "rejected"}
        unused |= set() if wanted is Rated else {"kto_tag"}
        read = {name for column, name in asdict(spec.columns).items() if column not in unused}
        if spec.shape == "openai":
            read.add("tools")
        if wanted is Task:  # a reward may read them
            read |= {"chosen", "rejected", "kto_tag"}
        return tuple(word for word in MEANINGFUL if word not in read)

    def encode(self, sample: Sample) -> Example:
        """One sample encoded, whole."""
        return self.objective.encode([sample], self.codec)[0]


@dataclass(frozen=True)
class Outcome:
    """What became of one row: made of it (nothing where it was dropped as too long), or refused for `reason`, with `detail`.

    answers_cut: truncated in what is learned. unasked: a question of it is empty. length: tokens before cutting; digest: 64 bits
    of the tokens before cutting, equal for equal rows. examples: how many the row is learned as; repeated: tokens that this
    costs beyond the longest of them.
    """

    row: int
    sample: Sample | None = None
    made: tuple[Example, ...] = ()
    truncated: bool = False
    answers_cut: bool = False
    reason: str = ""
    detail: str = ""
    length: int = 0
    digest: int = 0
    placeholder: bool = False
    unasked: bool = False
    unread: tuple[str, ...] = ()
    examples: int = 1
    repeated: int = 0


def encode_rows(recipe: Recipe, rows: list[RawRow]) -> list[Outcome]:
    """What becomes of each row, in order. Rows are encoded together; where that fails, one by one to find the culprits."""
    samples: dict[int, list[Sample]] = {}
    outcomes: dict[int, Outcome] = {}
    for row in rows:
        try:
            samples[row.number] = _samples(recipe, row)
        except RowError as error:
            outcomes[row.number] = Outcome(row.number, reason=error.reason, detail=error.detail, unread=_unread(recipe, row))
    encoded = iter(_encoded(recipe, [sample for several in samples.values() for sample in several]))
    for row in rows:
        if several := samples.get(row.number):
            outcomes[row.number] = _outcome(recipe, row, several, list(islice(encoded, len(several))))
    return [outcomes[row.number] for row in rows]


def _unread(recipe: Recipe, row: RawRow) -> tuple[str, ...]:
    """Columns the row fills whose names mean something to hone and that are not read as its shape and the objective are."""
    value = row.value or {}
    if value.keys().isdisjoint(recipe.unread):
        return ()
    found = tuple(word for word in recipe.unread if value.get(word))
    # A row of that shape holds its messages under either name; the second is left where the first is there.
    if recipe.spec.shape == "openai" and "conversations" not in value:
        return tuple(word for word in found if word != "messages")
    return found


def _samples(recipe: Recipe, row: RawRow) -> list[Sample]:
    if row.value is None:
        raise RowError(row.problem, row.detail)
    sample = to_sample(row.value, recipe.spec, recipe.objective.sample)
    try:
        return recipe.objective.examples(sample, recipe.codec)
    except TemplateError as error:
        raise RowError(_UNRENDERED, str(error)) from error


def _encoded(recipe: Recipe, samples: list[Sample]) -> list[Example | RowError]:
    if not samples:
        return []
    try:
        return recipe.objective.encode(samples, recipe.codec)
    except (TemplateError, MediaError) as error:
        if len(samples) == 1:
            return [RowError(_UNSEEN if isinstance(error, MediaError) else _UNRENDERED, str(error))]
    return [item for sample in samples for item in _encoded(recipe, [sample])]


def _outcome(recipe: Recipe, raw: RawRow, samples: list[Sample], encoded: list[Example | RowError]) -> Outcome:
    """What becomes of a row that is learned as `samples`; one that cannot be learned refuses the row."""
    row, unread = raw.number, _unread(recipe, raw)
    fitted: list[Fitted] = []
    try:
        for sample, one in zip(samples, encoded, strict=True):
            if isinstance(one, RowError):
                raise one
            fitted.append(fit(sample, one, cutoff_len=recipe.cutoff_len, overlong=recipe.overlong, encode=recipe.encode))
    except RowError as error:
        return Outcome(row, reason=error.reason, detail=error.detail, unread=unread)
    except TemplateError as error:
        return Outcome(row, reason="the template cannot render what is left after cutting", detail=str(error), unread=unread)
    except DataError as error:
        raise DataError(f"{recipe.spec.name}, row {row}: {error}") from error
    whole = [one for one in encoded if isinstance(one, Example)]
    lengths = list(map(len, whole))
    digest = hashlib.blake2b(digest_size=8)
    for sequence in chain.from_iterable(one.sequences for one in whole):
        for facts in (sequence.ids, sequence.labels, written_down(sequence.shown.parts).encode()):
            digest.update(facts)
    made = tuple([example for one in fitted for example in one.examples])
    truncated = any(one.truncated for one in fitted)
    fewer = truncated and sum(one.num_trained for one in made) < sum(one.num_trained for one in whole)
    return Outcome(
        row,
        samples[-1],
        made,
        truncated,
        answers_cut=fewer and not isinstance(samples[-1], Passage),
        length=max(lengths),
        digest=int.from_bytes(digest.digest()),
        placeholder=_has_placeholder(samples[-1]),
        unasked=asks_nothing(samples[-1]),
        unread=unread,
        examples=len(samples),
        repeated=sum(lengths) - max(lengths),
    )


def _has_placeholder(sample: Sample) -> bool:
    return any("{{" in text and _PLACEHOLDER.search(text) for text in texts_of(sample))


def encoded_rows(rows: Iterable[RawRow], recipe: Recipe) -> Iterator[tuple[int, Sample, Example]]:
    """(row number, sample, example) of the rows that can be used, read and encoded as they are asked for."""
    for chunk in chunks(rows, recipe, 8):
        for outcome in encode_rows(recipe, chunk):
            for example in outcome.made:
                assert outcome.sample is not None, "an example of no sample"
                yield outcome.row, outcome.sample, example


def chunks(rows: Iterable[RawRow], recipe: Recipe, size: int) -> Iterator[list[RawRow]]:
    """Rows in lists of `size`, up to the recipe's limit."""
    limited = islice(rows, recipe.max_rows)
    while chunk := list(islice(limited, size)):
        yield chunk


@dataclass(frozen=True)
class EncodedChunk:
    """What became of some rows, as it is stored and counted. digests: uint64, those of the rows that were not refused."""

    block: Block
    tally: Tally
    digests: np.ndarray


def encode_chunk(recipe: Recipe, rows: list[RawRow]) -> EncodedChunk:
    """`encode_rows` as little as can be handed from one process to another."""
    outcomes, tally, digests = encode_rows(recipe, rows), Tally(), array("Q")
    for outcome in outcomes:
        _count(tally, digests, outcome)
    made = [(example, outcome.row) for outcome in outcomes for example in outcome.made]
    block = Block.of([example for example, _ in made], [row for _, row in made])
    return EncodedChunk(block, tally, np.array(digests, np.uint64))


def _count(tally: Tally, digests: array, outcome: Outcome) -> None:
    tally.read += 1
    if outcome.reason:
        tally.refuse(outcome.row, outcome.reason, outcome.detail)
        return
    tally.dropped += not outcome.made
    tally.kept += bool(outcome.made)
    tally.truncated += outcome.truncated
    tally.answers_cut += outcome.answers_cut
    tally.unasked += outcome.unasked
    tally.split += len(outcome.made) > outcome.examples
    tally.rewritten += outcome.examples > 1
    tally.examples += outcome.examples
    tally.repeated += outcome.repeated
    tally.placeholders += outcome.placeholder
    tally.unread.update(outcome.unread)
    tally.longest = max(tally.longest, outcome.length)
    digests.append(outcome.digest)


def build_entry(folder: Path, source: Source, recipe: Recipe, *, workers: int) -> None:
    """Write the whole cache entry of a source into `folder`."""
    writer, tally, digests = EntryWriter(folder), Tally(), array("Q")
    before = _collect_seldom()
    try:
        rows = source.rows()
        # What is made at the first rows (copies of the tokenizer, plans) is made once, and the processes share it.
        if workers > 1:
            first = list(islice(rows, _FIRST))
            encode_rows(recipe, first)
            rows = chain(first, rows)
        size = _chunk_size(recipe.batch, workers)
        for chunk in in_order(partial(encode_chunk, recipe), chunks(rows, recipe, size), workers):
            writer.append(chunk.block)
            tally.add(chunk.tally)
            digests.frombytes(chunk.digests.tobytes())
            _stop_where_hopeless(tally, recipe)
        lengths, trained = writer.lengths, writer.column("trained")
        duplicates = len(digests) - len(np.unique(np.frombuffer(digests, np.uint64))) if digests else 0
        writer.close(tally.report(recipe.spec.name, lengths, trained, duplicates))
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
        writer.close()


def _collect_seldom() -> tuple[int, int, int]:
    """Many rows make the collector look, again and again, through what torch brought and through a chunk's rows, all alive.

    What its thresholds were.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_ALIVE)
    return before


def _chunk_size(batch: int, workers: int) -> int:
    """Rows that one process encodes at a time: no more than `batch`, and so few that none waits long for another's last."""
    return batch if workers == 1 else max(batch // (4 * workers), 1)


def _stop_where_hopeless(tally: Tally, recipe: Recipe) -> None:
    """A set of which the first `batch` rows are all refused has wrong columns or a wrong template: say so now, not in an hour."""
    if not tally.kept and not tally.dropped and tally.read >= recipe.batch:
        nothing = np.zeros(0, np.int64)
        tally.report(recipe.spec.name, nothing, nothing, 0).check(recipe.max_bad_rows)
