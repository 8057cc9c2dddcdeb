"""The reference's numbers of a run's examples, computed once before training and kept in the token cache.

Does not know what a loss makes of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hone import log
from hone.adapters.folder import locate
from hone.chat.encoded import Example
from hone.config.adapter import Adapted
from hone.config.objective import Referring
from hone.config.run import Run
from hone.data.build import CACHE_HOME, TokenSet
from hone.data.order import Steps
from hone.errors import ModelError
from hone.models.place import find_file, is_local, settle
from hone.models.policy import Policy
from hone.models.reference import Reference
from hone.objectives.base import REFERENCE, Objective
from hone.training.checkpoints.identity import Fingerprint
from hone.training.device import Device
from hone.training.evaluate import Layout, shares
from hone.training.feed import lay_out
from hone.training.planning.draft import Material

FORMAT = "reference-1"
"""Part of every key: raise it when the file or the numbers change."""
_WEIGHTS = (".safetensors", ".bin", ".json")


@dataclass(frozen=True)
class Known:
    """Numbers of examples by digest: digests uint64 [N], sorted; numbers fp32 [N, sequences of each]."""

    digests: np.ndarray
    numbers: np.ndarray

    def find(self, digests: np.ndarray) -> np.ndarray:
        """fp32 [len(digests), sequences]: the numbers, NaN where they are not known."""
        found = np.full((len(digests), self.numbers.shape[1]), np.nan, np.float32)
        if len(self.digests):
            places = np.searchsorted(self.digests, digests).clip(max=len(self.digests) - 1)
            there = self.digests[places] == digests
            found[there] = self.numbers[places[there]]
        return found

    def add(self, digests: np.ndarray, numbers: np.ndarray) -> Known:
        """With more; an example that is there twice is kept once."""
        unique, first = np.unique(np.concatenate([self.digests, digests]), return_index=True)
        return Known(unique, np.concatenate([self.numbers, numbers])[first])


def with_reference(
    run: Run, material: Material, rows: np.ndarray, made: Fingerprint, policy: Policy, device: Device,
    build: Callable[[], Reference],
) -> Material:  # fmt: skip
    """`material` with the reference's numbers aside of the training examples `rows` and of all evaluation examples.

    build: called only where some are not in the cache yet; the reference is let go before this returns.
    """
    sets = {"": (material.tokens, rows)}
    sets |= {f"eval {name}": (tokens, np.arange(len(tokens))) for name, tokens in material.evals.items()}
    digests = {name: _digests(tokens, wanted) for name, (tokens, wanted) in sets.items()}
    path = _place(run, made, material.objective)
    width = len(material.tokens[0].sequences)
    known: Known = device.gather(_load(path, width) if device.is_main else None)[0]
    missing = {name: np.isnan(known.find(own)).any(1) for name, own in digests.items()}
    num_missing, num = sum(int(one.sum()) for one in missing.values()), sum(map(len, digests.values()))
    if num_missing:
        log.info(f"reference: computing the log-probs of {num_missing:,} of {num:,} {material.objective.unit}, once")
        policy.reference = build()
        layout = Layout(run.train.per_device_eval_batch_size, policy.packing, material.pad_id)
        for name, (tokens, wanted) in sets.items():
            todo, own = wanted[missing[name]], digests[name][missing[name]]
            known = known.add(own, _compute(tokens, todo, width, material.objective, policy, device, layout))
        policy.reference = None
        device.free_memory()
        if device.is_main:
            _save(path, known)
    else:
        log.info(f"reference: the log-probs of {num:,} {material.objective.unit} are in the token cache")
    laid = {name: _aside(tokens, wanted, known.find(digests[name])) for name, (tokens, wanted) in sets.items()}
    evals = {name: laid[f"eval {name}"] for name in material.evals}
    return replace(material, tokens=laid[""], evals=evals)


def rows_taken(steps: Steps, num_steps: int, num_rows: int) -> np.ndarray:
    """The training examples that `num_steps` steps take: all, where they are an epoch or more."""
    if num_steps >= steps.num_steps_per_epoch:
        return np.arange(num_rows)  # where the last step of an epoch is left out, another epoch takes its rows
    taken = (row for number in range(num_steps) for batches in steps.step(0, number) for batch in batches for row in batch)
    return np.array(sorted(set(taken)), np.int64)


def _aside(tokens: TokenSet, rows: np.ndarray, numbers: np.ndarray) -> TokenSet:
    """NaN where a row is not taken: a loss that reads it all the same is not a number, and stops."""
    whole = np.full((len(tokens), numbers.shape[1]), np.nan, np.float32)
    whole[rows] = numbers
    return replace(tokens, aside={**tokens.aside, REFERENCE: whole})


def _compute(
    tokens: TokenSet, rows: np.ndarray, width: int, objective: Objective, policy: Policy, device: Device, layout: Layout
) -> np.ndarray:
    """fp32 [len(rows), width], the rows shared among the processes."""
    found = [np.zeros((0, width), np.float32)]
    for places, counts in shares(len(rows), layout.micro_batch, device, fixed=False):
        batch = lay_out(tokens, rows[places].tolist(), packing=layout.packing, pad_id=layout.pad_id)
        numbers = objective.reference_sums(policy, batch.to(device.device)).float().cpu().numpy().reshape(-1, width)
        found.append(numbers[: len(places) * counts])
    whole = np.zeros((len(rows), width), np.float32)
    for rank, numbers in enumerate(device.gather_data(np.concatenate(found))):
        whole[rank :: device.data_world] = numbers
    return whole


def _digests(tokens: TokenSet, rows: np.ndarray) -> np.ndarray:
    """uint64 [len(rows)]: of each example's ids and labels; two of a million differ but for a chance of 1 in 10 million."""
    return np.array([_digest(tokens[int(row)]) for row in rows], np.uint64)


def _digest(example: Example) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for one in example.sequences:
        digest.update(len(one).to_bytes(4, "little") + one.ids.tobytes() + one.labels.tobytes())
    return int.from_bytes(digest.digest(), "little")


def _place(run: Run, made: Fingerprint, objective: Objective) -> Path:
    """The file whose name says which model computed its numbers, how, and for which objective."""
    asked = run.objective
    assert isinstance(asked, Referring)
    model = run.model.model_copy(update={"model_name_or_path": asked.ref_model or run.model.model_name_or_path})
    under = (
        run.adapter.adapter_name_or_path if isinstance(run.adapter, Adapted) else ()
    )  # all but the last may be merged into the base
    adapters = asked.ref_model_adapters if asked.ref_model else under
    settled = settle(model, weights=True)
    config = Path(settled.model_name_or_path) if is_local(settled.model_name_or_path) else find_file(settled, "config.json")
    if config is None:
        raise ModelError(f"{settled.model_name_or_path} has no config.json")
    subfolder = run.adapter.adapter_folder if isinstance(run.adapter, Adapted) and not asked.ref_model else None
    folders = [config if config.is_dir() else config.parent, *(locate(name, subfolder).path for name in adapters)]
    facts = [
        FORMAT, objective.fingerprint, getattr(asked, "ld_alpha", None), asked.ref_model_quantization_bit, made["model"],
        [_files(folder) for folder in folders],
    ]  # fmt: skip
    key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
    return Path(run.data.tokenized_path or CACHE_HOME).expanduser() / "reference" / f"{key}.npz"


def _files(folder: Path) -> list[tuple[str, str, int, int]]:
    """Name, place (a hub's cache names it by content), bytes and time of every file of weights or settings."""
    files = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS)
    return [(path.name, str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _load(path: Path, width: int) -> Known:
    if not path.exists():
        return Known(np.zeros(0, np.uint64), np.zeros((0, width), np.float32))
    with np.load(path) as file:
        return Known(file["digests"], file["numbers"])


def _save(path: Path, known: Known) -> None:
    """Whole or not at all; of two runs that write at once the last one's stays, and the other's are computed again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, digests=known.digests, numbers=known.numbers)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)
