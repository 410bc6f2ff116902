"""The one way from the bytes of a picture file to RGB, for training, evaluation, embedding and search alike."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What PIL may open, whatever a file calls itself: no format that runs another program, as EPS does."""
BOMB = "bomb-sized picture"
STRIP_PIXELS = 1 << 20  # converted at a time, so that the parts of a conversion take little memory beside the picture
PROGRESSIVE = (0xC2, 0xCA)  # JPEG's frames whose scans may be as many as one likes: Huffman's and the arithmetic ones
ALONE = (0x01, *range(0xD0, 0xD9))  # JPEG's markers that no length comes after
MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd8\xff])")  # one that a length comes after, but for 0x01
TILE = (322, 323)  # TIFF's tags of a tile's width and height


class Refused(Exception):
    """The picture is not decoded; the text is one of the ledger's reasons."""


@dataclass(frozen=True)
class Limits:
    """Which pictures are decoded at all, all told from their headers.

    Decoding takes at most 8 bytes of memory for each pixel, whatever the depth and the palette: four for the picture as
    it is kept in its file, four for RGB.
    """

    most_pixels: int = 64_000_000
    min_side: int = 0
    longest_side: int = 65_535
    """JPEG's own; strips that are longer make filters and resizes take minutes and all memory"""
    most_scans: int = 100
    """passes of a progressive JPEG over its picture, of which encoders make about ten; each costs a whole decoding"""

    def check(self, width: int, height: int) -> None:
        """Raise Refused for a picture outside the limits, before its pixels are touched."""
        if width * height > self.most_pixels or max(width, height) > self.longest_side:
            raise Refused(BOMB)
        if min(width, height) < self.min_side:
            raise Refused("filtered")

    def check_scans(self, data: bytes) -> None:
        """Raise Refused for a JPEG of too many scans. Files that are no JPEG pass."""
        if data[:2] == b"\xff\xd8" and may_have_many_scans(data) and has_more_scans(data, self.most_scans):
            raise Refused(BOMB)


@contextmanager
def opened(data: bytes, limits: Limits) -> Iterator[Image]:
    """The picture with its header read and its pixels not: only kinds that are named here, only within the limits.

    What PIL raises inside the context is Refused too.
    """
    from PIL import Image as pil
    from PIL.TiffImagePlugin import TiffImageFile

    try:
        limits.check_scans(data)
        with pil.open(io.BytesIO(data), formats=kinds()) as picture:
            limits.check(*picture.size)
            if isinstance(picture, TiffImageFile):  # a tile is decoded whole, however small the picture is
                limits.check(*(int(picture.tag_v2.get(tag, limits.min_side)) for tag in TILE))
            yield picture
    except Refused:
        raise
    except (pil.DecompressionBombError, MemoryError):
        raise Refused(BOMB) from None
    except Exception as error:  # PIL raises nearly anything on broken bytes
        raise Refused("undecodable picture") from error


def decode(data: bytes, limits: Limits, *, least: int = 0) -> Image:
    """The whole picture as RGB: transparency on white, 16 bits scaled to 8, the first frame of an animation.

    This is the reference of the fast paths. `least`: a JPEG may be decoded at 1/2, 1/4 or 1/8 as long as its shorter
    side keeps so many pixels; 0: never. Raises Refused.
    """
    with opened(data, limits) as picture:
        if least and picture.format == "JPEG":
            short = min(picture.size)
            scale = next((k for k in (8, 4, 2) if short >= k * least), 1)
            picture.draft(None, (picture.width // scale, picture.height // scale))
        picture.load()
        return to_rgb(picture)


@cache
def kinds() -> tuple[str, ...]:
    """The formats that are opened at all: those of KINDS that this build of PIL can read."""
    from PIL import Image as pil

    pil.init()
    return tuple(kind for kind in KINDS if kind in pil.OPEN)


def to_rgb(picture: Image) -> Image:
    """The picture in 8-bit RGB; transparency is laid on white."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I"):  # PIL would clip 16-bit values to 255
        greatest = max(int(np.asarray(strip).max(initial=0)) for strip in _strips(picture))
        shift = 8 if greatest > 255 else 0
        return _by_strips(picture, lambda strip: _narrowed(strip, shift))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        return _by_strips(picture, _on_white)
    return picture.convert("RGB")


def _strips(picture: Image) -> Iterator[Image]:
    """The picture from top to bottom, about a million pixels at a time."""
    rows = max(1, STRIP_PIXELS // max(1, picture.width))
    for top in range(0, picture.height, rows):
        yield picture.crop((0, top, picture.width, min(picture.height, top + rows)))


def _by_strips(picture: Image, convert: Callable[[Image], Image]) -> Image:
    """`convert` of the picture, to RGB, done strip by strip: it sees single pixels, and makes copies of them."""
    from PIL import Image as pil

    whole, top = pil.new("RGB", picture.size), 0
    for strip in _strips(picture):
        whole.paste(convert(strip), (0, top))
        top += strip.height
    return whole


def _narrowed(picture: Image, shift: int) -> Image:
    from PIL import Image as pil

    wide = np.asarray(picture).astype(np.int64)
    return pil.fromarray((wide >> shift).clip(0, 255).astype(np.uint8)).convert("RGB")


def _on_white(picture: Image) -> Image:
    from PIL import Image as pil

    picture = picture.convert("RGBA")
    ground = pil.new("RGBA", picture.size, (255, 255, 255, 255))
    return pil.alpha_composite(ground, picture).convert("RGB")


def may_have_many_scans(jpeg: bytes) -> bool:
    """Whether a JPEG is of a kind that has several scans, by the markers before its first; True where they are odd.

    A look at a few bytes: it costs a hundredth of the decoding of a small picture.
    """
    at, components = 2, 0
    while at + 4 < len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker in PROGRESSIVE or marker in ALONE or marker == 0xFF:
            return True
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            components = jpeg[at + 9] if at + 9 < len(jpeg) else 0
        if marker == 0xDA:
            return jpeg[at + 4] != components
        at += 2 + (jpeg[at + 2] << 8 | jpeg[at + 3])
    return True


def has_more_scans(jpeg: bytes, most: int) -> bool:
    """Whether a JPEG has more than `most` scans."""
    data = np.frombuffer(jpeg, np.uint8)
    if int((data[1:][data[:-1] == 0xFF] == 0xDA).sum()) <= most:  # all that begins a scan, and some that does not
        return False
    at, count = 2, 0
    while count <= most and (marker := MARKER.search(jpeg, at)) is not None and marker[1] != b"\xd9":
        count += marker[1] == b"\xda"
        at = marker.end() + (0 if marker[1] == b"\x01" else int.from_bytes(jpeg[marker.end() : marker.end() + 2]))
    return count > most
