"""Identity: what makes a run the same run: noted with every checkpoint, in the user's words, and compared when one is continued.

Does not know where checkpoints lie nor what is done about a difference.
"""

from __future__ import annotations

import hashlib
from typing import Any

from hone.config.knobs import DEFAULTS_OF_STAGE, KINDS, knobs
from hone.config.run import Run
from hone.data.build import TokenSet
from hone.training.planning.plan import precision_of

Fingerprint = dict[str, dict[str, str]]
"""Part of the run -> setting -> value as text."""

_MODEL = (
    "model_name_or_path model_revision quantization_bit quantization_method quantization_type double_quantization rope_scaling "
    "train_from_scratch resize_vocab add_tokens add_special_tokens"
).split()
"""Settings that make other weights, or another function, of the same model."""

_DATA = (
    "dataset cutoff_len overlong max_samples mix_strategy interleave_probs val_size template default_system tool_format "
    "enable_thinking preserve_thinking"
).split()
"""Settings that may change the tokens or their mixture: they explain a difference and are none by themselves."""

_SAME_NUMBERS = (
    "precompute_ref rollout_server rollout_timeout rollout_batch_size reward_timeout sync_check_steps sync_check_bound"
).split()
"""Settings that say when or where something is computed and not what: they are noted, and may differ."""

_TOKENS, _ROWS = "tokens", "rows of "
SEQUENCES = "sequences of a step (per_device_train_batch_size x gradient_accumulation_steps x processes)"


def fingerprint(run: Run, tokens: TokenSet, *, world: int, fills_rows: bool, data_seed: int) -> Fingerprint:
    """What must be equal for a checkpoint to be continued. fills_rows: rows are packed up to cutoff_len."""
    train, length = run.train, {"cutoff_len": str(run.data.cutoff_len)}
    model = {key: value for key, value in _values(run, "model").items() if key in _MODEL}
    model["precision"] = ("pure " if train.pure_bf16 else "") + precision_of(train)
    objective = _values(run, "objective") | _drawing(run)
    explaining = {key: value for key, value in (_values(run, "data") | _values(run, "chat")).items() if key in _DATA}
    explaining |= {**model, **objective, "data_seed": str(data_seed)}
    adapter = _values(run, "adapter")
    if run.adapter.kind == "lora":
        adapter["lora_alpha"] = str(run.adapter.lora_alpha or 2 * run.adapter.lora_rank)
    return {
        "model": model | (length if run.model.rope_scaling else {}),
        "adapter": adapter,
        "objective": objective,
        # Its numbers may change; LoRA+ splits the groups of weights that the state belongs to.
        "optimizer": {
            "optim": run.optimizer.kind,
            "loraplus_lr_ratio": "left out" if run.optimizer.loraplus_lr_ratio is None else "given",
        },
        "data": {_TOKENS: _digest(tokens), **explaining, **_rows(tokens)},
        "order": {
            SEQUENCES: str(train.per_device_train_batch_size * train.gradient_accumulation_steps * world),
            "data_seed": str(data_seed),
            "disable_shuffling": _text(train.disable_shuffling),
            "dataloader_drop_last": _text(train.dataloader_drop_last),
            "packing": _text(fills_rows),
            **(length if fills_rows else {}),
        },
    }


def differences(there: Fingerprint, now: Fingerprint) -> list[str]:
    """Each setting that differs, as "lora_rank: 8 there, 16 now"; [] for the same run."""
    return list(dict.fromkeys(line for part in now for line in _of_part(part, there.get(part, {}), now[part])))


def _of_part(part: str, there: dict[str, str], now: dict[str, str]) -> list[str]:
    if part == "data" and there.get(_TOKENS) == now[_TOKENS]:
        return []
    names = [name for name in dict.fromkeys((*there, *now)) if name not in _SAME_NUMBERS]
    differing = [
        name for name in names if there.get(name) != now.get(name) and name != _TOKENS and not _as_before(name, there, now)
    ]
    told = [name for name in differing if not name.startswith(_ROWS)]
    # What one side alone has follows from the kind that differs, or was not noted by another version.
    told = [name for name in told if name in there and name in now] or told
    if told or part != "data":
        return [f"{name}: {there.get(name, 'not noted')} there, {now.get(name, 'nothing')} now" for name in told]
    files = [f"{name}: other tokens there; its file or the tokenizer has changed" for name in differing]
    return files or ["data: the same rows in another mixture there"]


def _as_before(name: str, there: dict[str, str], now: dict[str, str]) -> bool:
    """Whether a setting that a checkpoint of an earlier version does not note asks for nothing now."""
    return name not in there and name in knobs() and now[name] == _text(knobs()[name].default)


def _values(run: Run, section: str) -> dict[str, str]:
    """The settings of a section by flat key, of the kind that it is."""
    found, kind = {}, getattr(run, section)
    for knob in knobs().values():
        if knob.section != section or (knob.kinds and kind.kind not in knob.kinds):
            continue
        value: Any = run
        for name in knob.path:
            value = None if value is None else getattr(value, name)
        if knob.path[-1] == "kind":
            value = next(word for word, meant in KINDS[section][2].items() if meant == value)
        found[knob.key] = _text(value)
    return found


def _drawing(run: Run) -> dict[str, str]:
    """How the answers are drawn that are learned from; nothing where what is learned stands in the data."""
    keys = DEFAULTS_OF_STAGE.get(run.objective.kind, {})
    return {key: _text(getattr(run.generate, key)) for key in keys}


def _text(value: Any) -> str:
    if value is None:
        return "left out"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) or "nothing" if isinstance(value, tuple) else str(value)


def _rows(tokens: TokenSet) -> dict[str, str]:
    """A digest of each encoded set; its cache entry is named by content."""
    return {f"{_ROWS}{name}": entry.key[:12] for name, entry in zip(tokens.names, tokens.entries, strict=True)}


def _digest(tokens: TokenSet) -> str:
    """Of the encoded sets and the order of the mixture."""
    digest = hashlib.sha256("".join(entry.key for entry in tokens.entries).encode())
    for indices in (tokens.sets, tokens.places):
        digest.update(indices.tobytes())
    return digest.hexdigest()[:12]
