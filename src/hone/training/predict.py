"""Predictions: the model's answers to rows that are not learned from, written as they come, measured against what stands there.

Does not know how the model came about. A row is asked up to its last answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hone import log
from hone.chat.codec import Codec
from hone.chat.encoded import IGNORE, Encoded
from hone.config.run import Run
from hone.data.build import TokenSet
from hone.errors import TrainingError
from hone.evaluation.overlap import overlap
from hone.inference.drawing import drawn_batch, left_padded
from hone.inference.embedded import as_engine
from hone.inference.rollout import seed_of
from hone.inference.sampling import answer_length, generation_config
from hone.models.forward import media_inputs
from hone.models.policy import Policy
from hone.training.checkpoints.checkpoint import write_whole
from hone.training.device import Device

FILE = "generated_predictions.jsonl"
_STATE = ".predictions.json"


class Predictions:
    """`Predictions(run, codec, policy, device, model).take(sets)` -> figures.

    model: what tells the weights apart, so that another model's predictions are not gone on with.
    """

    def __init__(self, run: Run, codec: Codec, policy: Policy, device: Device, *, model: str):
        self._run, self._codec, self._policy, self._device, self._model = run, codec, policy, device, model
        self._folder = Path(run.train.output_dir)

    def take(self, sets: dict[str, TokenSet]) -> dict[str, float]:
        """Answer every row, going on where an earlier run of the same job was broken off; the means of what `overlap` gives.

        Raises TrainingError where a row has nothing to answer.
        """
        rows = [(name, index) for name, tokens in sets.items() for index in range(len(tokens))]
        size = self._run.train.per_device_eval_batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        mine = range(self._device.data_rank, len(batches), self._device.data_world)
        done = self._kept(len(rows), size)
        if done and self._device.is_main:
            log.info(f"going on with {self._folder / FILE}: {len(done):,} of {len(rows):,} rows are answered")
        with self._part.open("a", encoding="utf-8") as file, as_engine(self._policy.causal):
            for number in mine:
                if number * size in done:
                    continue
                for place, line in enumerate(self._answered(sets, batches[number], number)):
                    file.write(json.dumps({"number": number * size + place, **line}, ensure_ascii=False) + "\n")
                file.flush()
        return self._gathered(len(rows))

    @property
    def _part(self) -> Path:
        """What this process writes: rank 0 the file itself, in which the others' lines are put in the end."""
        return self._folder / FILE if self._device.is_main else self._folder / f".{FILE}.{self._device.rank}"

    def _answered(self, sets: dict[str, TokenSet], rows: list[tuple[str, int]], number: int) -> Iterator[dict[str, Any]]:
        asked = [self._asked(sets[name], index) for name, index in rows]
        shown = [sets[name][index].sequences[0].shown.tensors() for name, index in rows]
        longest = max(len(prompt) for prompt, _ in asked)
        limit = self._policy.causal.config.get_text_config().to_dict().get("max_position_embeddings")
        pad, settings = self._codec.tokenizer.pad_token_id, self._run.generate
        drawing = generation_config(
            settings, num_new=answer_length(settings, longest, limit), stop_ids=self._codec.stop_ids, pad_id=pad
        )
        ids_BT, mask_BT = left_padded([prompt for prompt, _ in asked], drawing.pad_token_id)
        place, seed = self._device.device, seed_of(self._run.train.seed, number)
        ids_BT, mask_BT = ids_BT.to(place), mask_BT.to(place)
        seen = media_inputs(self._policy.causal, ids_BT, shown)
        with self._device.autocast():
            out_BT = drawn_batch(self._policy.causal, ids_BT, mask_BT, drawing, seed=seed, **seen)
        for (name, index), (prompt, label), answer in zip(rows, asked, out_BT[:, longest:].tolist(), strict=True):
            dataset, row = sets[name].origin(index)
            said = {"prompt": self._text(prompt, special=True), "predict": self._text(self._upto_stop(answer))}
            yield said | {"label": self._text(label), "dataset": dataset, "row": row}

    def _asked(self, tokens: TokenSet, index: int) -> tuple[list[int], list[int]]:
        """The ids up to the row's last answer, and the answer's."""
        (sequence,) = tokens[index].sequences
        start, end = last_answer(sequence)
        if end == start:
            name, row = tokens.origin(index)
            raise TrainingError(f"do_predict: {name} row {row} has no answer to hold a prediction against; leave it out")
        return sequence.ids[:start].tolist(), sequence.ids[start:end].tolist()

    def _upto_stop(self, ids: list[int]) -> list[int]:
        return ids[: next((place for place, one in enumerate(ids) if one in self._codec.stop_ids), len(ids))]

    def _text(self, ids: list[int], *, special: bool = False) -> str:
        ids = ids if special or ids[-1:] == [] or ids[-1] not in self._codec.stop_ids else ids[:-1]
        hides = self._run.generate.skip_special_tokens and not special
        return self._codec.tokenizer.decode(ids, skip_special_tokens=hides)

    def _kept(self, num_rows: int, size: int) -> set[int]:
        """Numbers of the rows that an earlier run of this very job has answered in whole batches; others are cleared away."""
        facts = [self._model, self._run.generate.model_dump_json(), self._run.data.model_dump_json(), num_rows, size]
        job = hashlib.sha256(json.dumps([*facts, self._run.train.seed, self._codec.fingerprint]).encode()).hexdigest()
        state = self._folder / _STATE
        same = state.is_file() and state.read_text(encoding="utf-8") == job
        self._refuse_to_replace(same)
        self._device.gather(None)  # all have looked before one changes it
        parts = [*self._folder.glob(f".{FILE}.*"), self._folder / FILE]
        found = {line["number"]: line for part in parts if same and part.is_file() for line in _lines(part)}
        starts = {one - one % size for one in found}
        whole = {start for start in starts if all(one in found for one in range(start, min(start + size, num_rows)))}
        found = {one: line for one, line in found.items() if one - one % size in whole}
        self._device.gather(None)
        if self._device.is_main:
            write_whole(self._folder / FILE, "".join(json.dumps(found[one], ensure_ascii=False) + "\n" for one in sorted(found)))
            for part in parts[:-1]:  # now that what they held stands in the file
                part.unlink(missing_ok=True)
            write_whole(state, job)
            if not found:  # figures of the answers that are gone
                (self._folder / "predict_results.json").unlink(missing_ok=True)
        self._device.gather(None)
        return set(found)

    def _refuse_to_replace(self, same: bool) -> None:
        """Answers of another job may have taken hours: they go only with a word, or where the model is trained anew."""
        if same or self._run.train.do_train or self._run.train.overwrite_output_dir:
            return
        if (self._folder / FILE).is_file() and next(_lines(self._folder / FILE), None):
            raise TrainingError(
                f"{self._folder / FILE} holds answers of another job (another model, data, sampling or batch size); write "
                "overwrite_output_dir: true to replace them, or another output_dir"
            )

    def _gathered(self, wanted: int) -> dict[str, float]:
        """The parts of all processes in order in one file; the means, on every process."""
        self._device.gather(None)
        parts = [*self._folder.glob(f".{FILE}.*"), self._folder / FILE]
        lines = sorted((line for part in parts for line in _lines(part)), key=lambda line: line["number"])
        assert [line["number"] for line in lines] == list(range(wanted)), "a row that nobody answered"
        self._device.gather(None)
        if self._device.is_main:
            write_whole(self._folder / FILE, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            for part in [part for part in parts if part.name != FILE]:
                part.unlink()
        figures = [overlap(line["predict"], line["label"]) for line in lines]
        return {f"predict_{name}": float(np.mean([one[name] for one in figures])) for name in figures[0]} if figures else {}


def last_answer(sequence: Encoded) -> tuple[int, int]:
    """[start, end) of the last tokens in a row that are learned."""
    learned = np.flatnonzero(sequence.labels != IGNORE)
    if not len(learned):
        return 0, 0
    breaks = np.flatnonzero(np.diff(learned) > 1)
    return int(learned[breaks[-1] + 1] if len(breaks) else learned[0]), int(learned[-1]) + 1


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a part: what a kill cut off is none."""
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:  # answers may hold other characters that end lines
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if isinstance(found, dict) and isinstance(found.get("number"), int):
            yield found
