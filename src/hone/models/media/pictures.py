"""Pictures: an encoded file, or where it lies, to pixels within the settings' limits. Pillow's one door.

Does not know which model looks at them. A picture's size is read from the file's head, without its pixels.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

from hone.errors import MediaError, MissingExtra

Source = bytes | PurePath
"""What is in a file, or where it lies."""
MOST_PIXELS = 100_000_000
"""A file that unpacks to more is not opened: a few kilobytes can say that they are terabytes."""
_TURNED = (5, 6, 7, 8)
"""Values of EXIF's orientation for which width and height change places."""
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Limits:
    """Pixels of a picture: one with more is made smaller, one with fewer larger, its sides in proportion."""

    most: int
    fewest: int

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The sides it is brought to."""
        for limit, outside in ((self.most, width * height > self.most), (self.fewest, width * height < self.fewest)):
            if outside:
                factor = math.sqrt(limit / (width * height))
                width, height = max(int(width * factor), 1), max(int(height * factor), 1)
        return width, height


def size_of(source: Source, limits: Limits) -> tuple[int, int]:
    """(width, height) of what `read_picture` gives. Raises: MediaError."""
    with _open(source) as image:
        width, height = image.size
        if image.getexif().get(_ORIENTATION) in _TURNED:
            width, height = height, width
    return limits.fit(width, height)


def read_picture(source: Source, limits: Limits) -> Any:
    """A PIL image in RGB, upright. Raises: MediaError where the file is no picture, is cut off or unpacks to too much."""
    with _open(source) as image:
        try:
            picture = pillow().ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, ValueError, SyntaxError) as problem:
            raise MediaError(f"{name_of(source)}: the picture cannot be read to its end: {problem}") from problem
    wanted = limits.fit(*picture.size)
    return picture if wanted == picture.size else picture.resize(wanted)


def pillow() -> ModuleType:
    """The package PIL with Image and ImageOps. Raises: MissingExtra."""
    try:
        import PIL.Image
        import PIL.ImageOps
    except ModuleNotFoundError as fault:
        raise MissingExtra("pillow", "media", "a picture") from fault
    return PIL


def name_of(source: Source) -> str:
    """What a file is called in messages."""
    return f"a file of {len(source):,} bytes" if isinstance(source, bytes) else str(source)


def _open(source: Source) -> Any:
    Image = pillow().Image
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else Path(source))
    except FileNotFoundError:
        raise MediaError(f"there is no picture {source}; paths are relative to media_dir, or else to dataset_dir") from None
    except Image.DecompressionBombError:
        raise MediaError(f"{name_of(source)}: the picture has more than {MOST_PIXELS:,} pixels") from None
    except (OSError, ValueError, SyntaxError) as problem:
        raise MediaError(f"{name_of(source)} is no picture that can be read: {problem}") from problem
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise MediaError(
            f"{name_of(source)}: the picture has {image.width:,} x {image.height:,} pixels; up to {MOST_PIXELS:,} are read"
        )
    return image
