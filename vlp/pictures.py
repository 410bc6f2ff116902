"""The one way from the bytes of a picture file to RGB, for training, evaluation, embedding and search alike."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What PIL may open, whatever a file calls itself: no format that runs another program, as EPS does."""


class Refused(Exception):
    """The picture is not decoded; the text is one of the ledger's reasons."""


@dataclass(frozen=True)
class Limits:
    """Which pictures are decoded at all."""

    most_pixels: int = 64_000_000
    min_side: int = 0

    def check(self, width: int, height: int) -> None:
        """Raise Refused for a picture outside the limits, before its pixels are touched."""
        if width * height > self.most_pixels:
            raise Refused("bomb-sized picture")
        if min(width, height) < self.min_side:
            raise Refused("filtered")


def decode(data: bytes, limits: Limits) -> Image:
    """The whole picture as RGB: transparency on white, 16 bits scaled to 8, the first frame of an animation.

    This is the reference of the fast paths. Raises Refused.
    """
    from PIL import Image as pil

    try:
        with pil.open(io.BytesIO(data), formats=kinds()) as picture:
            limits.check(*picture.size)
            picture.load()
            return to_rgb(picture)
    except Refused:
        raise
    except pil.DecompressionBombError:
        raise Refused("bomb-sized picture") from None
    except Exception as error:  # PIL raises nearly anything on broken bytes
        raise Refused("undecodable picture") from error


@cache
def kinds() -> tuple[str, ...]:
    """The formats that are opened at all: those of KINDS that this build of PIL can read."""
    from PIL import Image as pil

    pil.init()
    return tuple(kind for kind in KINDS if kind in pil.OPEN)


def to_rgb(picture: Image) -> Image:
    """The picture in 8-bit RGB; transparency is laid on white."""
    from PIL import Image as pil

    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I"):  # PIL would clip 16-bit values to 255
        wide = np.asarray(picture).astype(np.int64)
        return pil.fromarray((wide >> (8 if wide.max(initial=0) > 255 else 0)).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = pil.new("RGBA", picture.size, (255, 255, 255, 255))
        return pil.alpha_composite(ground, picture).convert("RGB")
    return picture.convert("RGB")
