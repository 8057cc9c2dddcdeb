"""Sounds: an encoded file, or where it lies, to samples at a model's rate, its channels in one. libsndfile's one door.

Does not know which model listens. A sound's length is read from the file's head.
"""

from __future__ import annotations

import io
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from hone.errors import MediaError, MissingExtra
from hone.models.media.pictures import Source, name_of

MOST_SECONDS = 3600
"""A file that unpacks to more is not opened."""


def length_of(source: Source, rate: int) -> int:
    """How many samples `read_sound` gives. Raises: MediaError."""
    with _open(source) as file:
        return _resampled_length(file.frames, file.samplerate, rate)


def read_sound(source: Source, rate: int) -> np.ndarray:
    """float32: the samples at `rate` a second. Raises: MediaError where the file is no sound or is cut off."""
    with _open(source) as file:
        samples = file.read(dtype="float32", always_2d=True).mean(axis=1)
        if len(samples) != file.frames:
            raise MediaError(f"{name_of(source)}: the sound ends after {len(samples):,} of its {file.frames:,} samples")
        return resample(samples, file.samplerate, rate)


def resample(samples: np.ndarray, given: int, wanted: int) -> np.ndarray:
    """The same sound at another rate, without the tones that this cannot hold: its spectrum cut, or filled with nothing."""
    if given == wanted or not len(samples):
        return samples
    length = _resampled_length(len(samples), given, wanted)
    spectrum = np.fft.rfft(samples)[: length // 2 + 1]
    return (np.fft.irfft(spectrum, length) * (length / len(samples))).astype(np.float32)


def _resampled_length(frames: int, given: int, wanted: int) -> int:
    return math.ceil(frames * wanted / given)


def _open(source: Source) -> Any:
    if find_spec("soundfile") is None:
        raise MissingExtra("soundfile", "media", "a sound")
    import soundfile

    try:
        file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source))
    except (OSError, RuntimeError) as problem:  # libsndfile's own error is a RuntimeError
        if not isinstance(source, bytes) and not Path(source).is_file():
            raise MediaError(f"there is no sound {source}; paths are relative to media_dir, or else to dataset_dir") from None
        raise MediaError(f"{name_of(source)} is no sound that can be read: {problem}") from problem
    if file.frames <= 0 or file.frames > MOST_SECONDS * file.samplerate:
        seconds = file.frames / file.samplerate
        file.close()
        raise MediaError(
            f"{name_of(source)}: the sound has {seconds:,.0f} seconds; 1 sample to {MOST_SECONDS:,} seconds are read"
        )
    return file
