"""Sniff: what a file is by its own bytes, whatever was said of it, and whether it is a picture, a sound or a film to be read.

Does not know where it comes from.
"""

from __future__ import annotations

from io import BytesIO

from hone.chat.message import MEDIA, Media
from hone.models.media.pictures import pillow
from hone.serving.refusal import Refusal

PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Forms that are read, by Pillow's names. Others, some of which run a program of their own (EPS), are not tried."""
WORDS = {"image": "a picture", "audio": "a sound", "video": "a film"}


def form_of(data: bytes) -> tuple[str, str]:
    """The kind and form by the first bytes: ("audio", "wav"); ("", "") where they are of none that is known."""
    head, tag = data[:4], data[8:12]
    if head == b"RIFF":
        return {b"WEBP": ("image", "webp"), b"WAVE": ("audio", "wav"), b"AVI ": ("video", "avi")}.get(tag, ("", ""))
    if data[4:8] == b"ftyp":  # sounds and pictures come in this form too, and are not read
        return ("", "") if tag in (b"M4A ", b"M4B ", b"avif", b"heic", b"mif1") else ("video", "mp4")
    for sign, kind, form in (
        (b"\x89PNG\r\n\x1a\n", "image", "png"),
        (b"\xff\xd8\xff", "image", "jpeg"),
        (b"GIF8", "image", "gif"),
        (b"BM", "image", "bmp"),
        (b"fLaC", "audio", "flac"),
        (b"OggS", "audio", "ogg"),
        (b"ID3", "audio", "mp3"),
        (b"\x1a\x45\xdf\xa3", "video", "webm"),
    ):
        if data.startswith(sign):
            return kind, form
    frame = len(data) > 3 and data[0] == 0xFF and data[1] & 0xE6 in (0xE2, 0xE4, 0xE6)  # MPEG audio, layer 1 to 3
    return ("audio", "mp3") if frame else ("", "")


def recognise(kind: str, data: bytes, *, max_pixels: int, said: str = "") -> Media:
    """The part of this kind that the bytes are. said: the form that the request names, "" for none.

    A picture is decoded once, within `max_pixels`, so that what is broken shows here. Raises: Refusal.
    """
    found, form = form_of(data)
    if found != kind:
        told = f"it is {WORDS[found]} ({form})" if found else "its bytes are no form that is read here"
        raise Refusal(400, f"{WORDS[kind]} is wanted, and {told}", code="media_unreadable")
    if said and said != form:
        raise Refusal(400, f"its format is said to be {said[:20]}, and it is {form}", code="media_unreadable")
    if kind == "image":
        _decode(data, max_pixels)
    return MEDIA[kind](data)


def preview(data: bytes, edge: int) -> bytes:
    """A small JPEG of a picture that is recognised, its longer side `edge` pixels at most, upright."""
    pictures = pillow().Image
    with pictures.open(BytesIO(data), formats=PICTURES) as picture:
        picture.draft("RGB", (2 * edge, 2 * edge))
        small = picture.convert("RGBA")
        small.thumbnail((edge, edge))
        small = pillow().ImageOps.exif_transpose(small)
        file, ground = BytesIO(), pictures.new("RGB", small.size, "white")
        ground.paste(small, mask=small)
        ground.save(file, "JPEG", quality=85)
    return file.getvalue()


def _decode(data: bytes, max_pixels: int) -> None:
    pictures, told = pillow().Image, "the picture has too many pixels"
    try:
        with pictures.open(BytesIO(data), formats=PICTURES) as picture:
            width, height = picture.size
            if width * height <= max_pixels:
                picture.load()
                return
            told += f": {width} x {height}"
    except pictures.DecompressionBombError:  # Pillow's own bound
        pass
    except Exception as fault:  # a decoder may stumble over a stranger's bytes in any way; what it says is of its inside
        raise Refusal(400, "the picture is broken and cannot be read", code="media_unreadable") from fault
    raise Refusal(400, f"{told}; up to {max_pixels} are read (api_max_pixels)", code="media_too_large")
