"""Build: the settings' data sets as one TokenSet: read, encoded, cut, cached, mixed.

Does not know the model, the batch, or what a loss is; the objective says what a row means, the codec how it is encoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from hone import log
from hone.chat.encoded import Example
from hone.config.data import DataConfig
from hone.data.cache import Entry, find_or_build
from hone.data.catalog import Catalog, DatasetSpec, load_catalog
from hone.data.encode import Recipe, build_entry, encoded_rows
from hone.data.files import open_source
from hone.data.guess import guess_spec
from hone.data.mix import draw, hold_back, mix
from hone.data.report import Report
from hone.data.sample import Sample
from hone.data.shapes import check_usable
from hone.errors import DataError, at_once

CACHE_HOME = "~/.cache/hone/tokens"
"""Where encoded data are kept when `tokenized_path` says nothing."""
PUBLIC: Mapping[str, str | None] = MappingProxyType({})
"""The tokens of hubs where every set is anybody's."""


@dataclass(frozen=True)
class TokenSet:
    """Encoded examples in the order of the mixture. Tokens stay on disk; only indices are in memory.

    names, entries: of each set. sets: int32, the set of example i; places: int64, its number in that set's entry.
    aside: numbers computed of the examples by name, such as a reference model's log-probs: fp32 [examples, sequences of each].
    partners, join: see `joined`.
    """

    names: tuple[str, ...]
    entries: tuple[Entry, ...]
    sets: np.ndarray
    places: np.ndarray
    lengths: np.ndarray
    trained: np.ndarray
    report: Report
    aside: Mapping[str, np.ndarray] = field(default_factory=dict)
    partners: np.ndarray | None = None
    join: Callable[..., Example] | None = None

    def __len__(self) -> int:
        return len(self.sets)

    def __getitem__(self, index: int) -> Example:
        """Example `index`: int32 ids and labels, without pieces."""
        own = self._own(index)
        if self.join is None or self.partners is None:
            return own
        return self.join(own, *(self._own(int(other)) for other in np.atleast_1d(self.partners[index])))

    def _own(self, index: int) -> Example:
        return self.entries[self.sets[index]][int(self.places[index])]

    @property
    def values(self) -> np.ndarray:
        """float32: the number of each example."""
        found = np.empty(len(self), np.float32)
        for number, entry in enumerate(self.entries):
            here = self.sets == number
            found[here] = entry.values[self.places[here]]
        return found

    @property
    def notes(self) -> list[str]:
        """The note of each example."""
        return [self.entries[number].note(int(place)) for number, place in zip(self.sets, self.places, strict=True)]

    def joined(self, partners: np.ndarray, join: Callable[..., Example], lengths: np.ndarray) -> TokenSet:
        """The same examples, each as `join` makes it of itself and of example `partners[i]`, or of several where that is a row.

        lengths: tokens it has then.
        """
        return replace(self, partners=partners, join=join, lengths=lengths.astype(np.int32))

    def origin(self, index: int) -> tuple[str, int]:
        """The data set's name and the number of the row, from 0, that example `index` came from."""
        return self.names[self.sets[index]], int(self.entries[self.sets[index]].rows[self.places[index]])

    @property
    def shows_media(self) -> bool:
        """Whether any of the sets holds a picture, a film or a sound."""
        return any(entry.shows_media for entry in self.entries)

    @property
    def most_sequences(self) -> int:
        """Sequences of the example that has most of them."""
        return max(int(np.diff(entry.firsts).max(initial=0)) for entry in self.entries)

    def take(self, indices: np.ndarray) -> TokenSet:
        """The examples `indices`, in that order, with the report of the whole."""
        assert self.partners is None, "a set is drawn from before its examples are joined"
        return TokenSet(
            self.names,
            self.entries,
            self.sets[indices],
            self.places[indices],
            self.lengths[indices],
            self.trained[indices],
            self.report,
            {name: numbers[indices] for name, numbers in self.aside.items()},
        )


def build_data(
    data: DataConfig,
    objective: Any,
    codec: Any,
    *,
    names: tuple[str, ...],
    seed: int,
    hub_tokens: Mapping[str, str | None] = PUBLIC,
) -> TokenSet:
    """The sets `names` read, encoded, cut and mixed as `data` says; found in the token cache where nothing changed.

    hub_tokens: of each hub ("hf", "ms", "om"), for private sets; they have no part in what is built.
    Raises DataError where a set is not defined, cannot be read, or has more bad rows than max_bad_rows allows.
    """
    if not names:
        raise DataError("no data set is named; write dataset: NAME, as in dataset_info.json")
    if len(set(names)) < len(names):
        raise DataError(f"a data set is named twice: {', '.join(names)}; to repeat it, interleave with interleave_over")
    if data.streaming:
        log.once("streaming: rows are read in a stream and kept encoded on disk, so memory is bounded and runs can be continued")
    root = Path(data.tokenized_path or CACHE_HOME).expanduser()
    entries, reused = [], []
    specs = find_specs(data, names, objective.sample)
    for spec in specs:
        check_usable(spec, objective.sample)
        recipe = make_recipe(data, spec, objective, codec)
        source = open_source(spec, streaming=data.streaming, token=hub_tokens.get(spec.kind))
        key = recipe.key(source.identity(root / "hashes"))

        def build(folder: Path, source: Any = source, recipe: Recipe = recipe) -> None:
            build_entry(folder, source, recipe, workers=data.preprocessing_num_workers or 1)

        # Only one of several processes overwrites; the same key gives the others the same content before or after.
        entry, found = find_or_build(root, key, build, overwrite=data.overwrite_cache and log.rank() == 0)
        entry = replace(entry, report=replace(entry.report, name=spec.name), reader=codec.reader)
        entry.report.check(data.max_bad_rows)
        entries.append(entry)
        reused += [spec.name] * found
    tokens = _mixed(data, specs, entries, reused, seed)
    return replace(tokens, report=replace(tokens.report, unit=objective.unit))


def find_specs(data: DataConfig, names: Sequence[str], wanted: type[Sample]) -> list[DatasetSpec]:
    """The spec of each name: an entry of the catalog, or else a file of that path whose shape its first row shows.

    Raises DataError, or Several of them, for all names that are neither.
    """
    catalog, specs = load_catalog(data.dataset_dir), dict[str, DatasetSpec]()
    at_once(partial(lambda name: specs.update({name: _find_spec(catalog, name, wanted)}), name) for name in names)
    return [replace(specs[name], media_dir=_media_dir(data, specs[name])) for name in names]


def _media_dir(data: DataConfig, spec: DatasetSpec) -> str:
    """The folder that paths of media are relative to: the settings', the catalogue's own, or else that of the set's file."""
    if data.media_dir is not None:
        return data.media_dir
    if isinstance(data.dataset_dir, str) and Path(data.dataset_dir).expanduser().is_dir():
        return data.dataset_dir
    return str(Path(spec.place).parent) if spec.kind == "file" else "."


def _find_spec(catalog: Catalog, name: str, wanted: type[Sample]) -> DatasetSpec:
    if name not in catalog and Path(name).expanduser().exists():
        return guess_spec(name, wanted)
    return catalog.find(name)


def make_recipe(data: DataConfig, spec: DatasetSpec, objective: Any, codec: Any) -> Recipe:
    """All that the encoded rows of a set follow from, apart from the rows."""
    limit = data.max_samples if spec.num_samples is None else None  # a random draw comes first, and needs every row
    return Recipe(
        spec,
        objective,
        codec,
        data.cutoff_len,
        _overlong(data, objective.sample),
        limit,
        data.preprocessing_batch_size,
        data.max_bad_rows,
    )


def _overlong(data: DataConfig, sample: type[Sample]) -> str:
    """Where the user chose nothing: packed pretraining learns all of a long text, in windows, as LLaMA-Factory's does."""
    if data.overlong is None:
        return "split" if sample.__name__ == "Passage" and data.packing is not False else "truncate_right"
    return data.overlong


def _mixed(data: DataConfig, specs: list[DatasetSpec], entries: list[Entry], reused: list[str], seed: int) -> TokenSet:
    drawn = [_drawn(spec, entry, data.max_samples, seed) for spec, entry in zip(specs, entries, strict=True)]
    names = tuple(spec.name for spec in specs)
    strategy, probs = ("concat", ()) if len(names) == 1 else (data.mix_strategy, data.interleave_probs)
    sets, rows = mix([len(places) for places in drawn], strategy, probs=probs, seed=seed)
    lengths, trained = np.empty(len(sets), np.int32), np.empty(len(sets), np.int32)
    places = rows
    for number, (entry, own) in enumerate(zip(entries, drawn, strict=True)):
        here = sets == number
        places[here] = own[rows[here]]
        lengths[here], trained[here] = entry.lengths[places[here]], entry.trained[places[here]]
    report = Report(
        tuple(entry.report for entry in entries),
        len(sets),
        int(lengths.sum(dtype=np.int64)),
        int(trained.sum(dtype=np.int64)),
        tuple(reused),
    )
    return TokenSet(names, tuple(entries), sets, places, lengths, trained, report)


def _drawn(spec: DatasetSpec, entry: Entry, max_samples: int | None, seed: int) -> np.ndarray:
    if spec.num_samples is None:
        return np.arange(len(entry), dtype=np.int64)
    chosen = draw(len(entry), spec.num_samples, seed)
    return chosen if max_samples is None else chosen[:max_samples]


def split_validation(tokens: TokenSet, val_size: float, seed: int) -> tuple[TokenSet, TokenSet]:
    """(training, held back): val_size rows (2 or more) or that share of them (below 1), drawn by seed.

    Repeats of a row, and the parts of a row that was split, stand together on one side. Both keep the order of the mixture.
    """
    if val_size <= 0 or val_size == 1:
        raise DataError(f"val_size is {val_size:g}; wanted a number of rows (2 or more) or a share (below 1)")
    wanted = math.ceil(len(tokens) * val_size) if val_size < 1 else int(val_size)
    if wanted >= len(tokens):
        raise DataError(f"val_size holds back {wanted:,} of {len(tokens):,} rows, which leaves nothing to train on")
    rows = np.empty(len(tokens), np.int64)
    for number, entry in enumerate(tokens.entries):
        here = tokens.sets == number
        rows[here] = entry.rows[tokens.places[here]]
    groups = np.unique(np.stack([tokens.sets.astype(np.int64), rows]), axis=1, return_inverse=True)[1].reshape(-1)
    held = hold_back(groups, wanted, seed)
    if held.all():
        raise DataError(f"val_size {val_size:g} cannot be held back: the set is the repeats or parts of too few rows")
    return tokens.take(np.flatnonzero(~held)), tokens.take(np.flatnonzero(held))


def first_samples(
    data: DataConfig, objective: Any, codec: Any, names: Sequence[str], count: int
) -> list[tuple[tuple[str, int], Sample, Example]]:
    """The first `count` usable rows of each set: (set, row number), what the row means, and what it is encoded to, cut included.

    Reads no further than it must and leaves the cache alone.
    """
    shown = []
    for spec in find_specs(data, names, objective.sample):
        check_usable(spec, objective.sample)
        rows = open_source(spec, streaming=True).rows()
        found = encoded_rows(rows, make_recipe(data, spec, objective, codec))
        shown += [((spec.name, number), sample, encoded) for number, sample, encoded in islice(found, count)]
    return shown
