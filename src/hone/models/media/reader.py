"""MediaReader: what a codec and a batch ask of a model's processor: how many ids stand for a picture, and its tensors.

Does not know conversations. The door over transformers' image processors, which run here on Pillow and numpy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoImageProcessor, PretrainedConfig

from hone.config.model import ModelConfig
from hone.errors import MediaError, ModelError
from hone.models.load import load_config
from hone.models.media.families import Family, Sounds, family_of
from hone.models.media.pictures import Limits, Source, name_of, read_picture, size_of
from hone.models.media.sounds import length_of, read_sound
from hone.models.place import explain, find_file, hub_arguments, settle

_FILES = ("preprocessor_config.json", "processor_config.json")


class Part(Protocol):
    """A picture of a message, as hone.chat.message has them."""

    @property
    def kind(self) -> str: ...

    @property
    def source(self) -> Source: ...


@dataclass(frozen=True)
class MediaReader:
    """See hone.chat.shown.Reader. place: the model's settings, where its processor's files are; files: their names and texts."""

    place: ModelConfig
    config: PretrainedConfig
    family: Family
    limits: Limits
    files: Mapping[str, str]

    @cached_property
    def tokens(self) -> Mapping[str, int]:
        """See Reader."""
        return {kind: getattr(self.config, one.token) for kind, one in self.family.kinds.items()}

    @cached_property
    def fingerprint(self) -> str:
        """See Reader."""
        facts = (self.config.model_type, *self.files.values(), repr(self.limits), repr(sorted(self.tokens.items())))
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()

    @cached_property
    def _processor(self) -> Any:
        listens = any(isinstance(kind, Sounds) for kind in self.family.kinds.values())
        kind, more = (AutoFeatureExtractor, {}) if listens else (AutoImageProcessor, {"backend": "pil"})
        try:
            return kind.from_pretrained(self.place.model_name_or_path, **more, **hub_arguments(self.place))
        except (OSError, ValueError, KeyError) as problem:
            raise explain(self.place.model_name_or_path, "processor", problem) from problem
        except ImportError as problem:  # seen with transformers 5.15; 5.23 reads by Pillow alone
            told = f"transformers {version('transformers')} reads no pictures without torchvision"
            raise ModelError(f"{told}; pip install --upgrade transformers") from problem

    def stand_ins(self, part: Part) -> np.ndarray:
        """See Reader."""
        count = self._checked(part, partial(self._count, part))
        return np.full(count, self.tokens[part.kind], np.int32)

    def see(self, parts: Sequence[Part]) -> dict[str, Tensor]:
        """See Reader."""
        found: dict[str, Tensor] = {}
        for kind, one in self.family.kinds.items():
            own = [part for part in parts if part.kind == kind]
            if own:
                prepare = self._sounds if isinstance(one, Sounds) else self._pixels
                made = self._checked(own[0], partial(prepare, own))
                found |= {name: made[name] for name in one.names}
        return found

    def _pixels(self, parts: Sequence[Part]) -> Mapping[str, Tensor]:
        return self._processor(images=[read_picture(part.source, self.limits) for part in parts], return_tensors="pt")

    def _sounds(self, parts: Sequence[Part]) -> Mapping[str, Tensor]:
        rate = self._processor.sampling_rate
        heard = [read_sound(part.source, rate) for part in parts]
        made = self._processor(heard, sampling_rate=rate, padding="max_length", return_attention_mask=True, return_tensors="pt")
        return {"feature_attention_mask": made["attention_mask"], **made}

    def _count(self, part: Part) -> int:
        kind = self.family.kinds[part.kind]
        if isinstance(kind, Sounds):
            return kind.count(self._processor, self.config, length_of(part.source, self._processor.sampling_rate))
        return kind.count(self._processor, self.config, *size_of(part.source, self.limits))

    def save(self, folder: Path) -> None:
        """Write the processor's files, as they were read, beside a model that was trained with it."""
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")

    def _checked(self, part: Part, work: Any) -> Any:
        try:
            return work()
        except ValueError as problem:  # of a picture 200 times as wide as it is high, which the processor refuses
            raise MediaError(f"{name_of(part.source)}: the model's processor refuses it: {problem}") from problem


def load_reader(model: ModelConfig, *, scores: bool = False) -> MediaReader | None:
    """The reader of a model that takes media; None for one of text alone, or without a processor's file beside it.

    scores: as of load_config.
    """
    model = settle(model)
    config = load_config(model, scores=scores)
    family = family_of(config)
    found = {name: find_file(model, name) for name in _FILES} if family else {}
    files = {name: file.read_text(encoding="utf-8") for name, file in found.items() if file is not None}
    if family is None or not files:
        _refuse_limits(model)
        return None
    return MediaReader(model, config, family, Limits(model.image_max_pixels, model.image_min_pixels), files)


def _refuse_limits(model: ModelConfig) -> None:
    """Settings of pictures beside a model that takes none would do nothing."""
    for key in ("image_max_pixels", "image_min_pixels"):
        if getattr(model, key) != ModelConfig.model_fields[key].default:
            raise ModelError(f"{key}: {model.model_name_or_path} takes no pictures here ({' or '.join(_FILES)}); leave it out")
