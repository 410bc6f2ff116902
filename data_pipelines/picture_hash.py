"""A picture reduced to what near-identical pictures share: a difference hash and the mean colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

ALIKE_BITS, ALIKE_COLOUR = 6, 5.0  # of 256 hash bits, of 255 in each channel's mean
MEASURED_SIDE = 128  # pixels; larger pictures are averaged down to it before they are measured


@dataclass(frozen=True)
class Fingerprint:
    """What two pictures that look the same have in common."""

    bits: int  # difference hash, 256 bits
    mean: tuple[float, float, float]  # colour, 0..255

    def alike(self, other: Fingerprint) -> bool:
        """Whether at most ALIKE_BITS bits and ALIKE_COLOUR levels of each channel differ."""
        near = all(abs(a - b) <= ALIKE_COLOUR for a, b in zip(self.mean, other.mean, strict=True))
        return near and (self.bits ^ other.bits).bit_count() <= ALIKE_BITS


def fingerprint(pixels: NDArray[np.uint8]) -> Fingerprint:
    """The difference hash (16 x 16 comparisons of neighbours) and the mean colour of `pixels` [H, W, 3]."""
    from PIL import Image

    grey = Image.fromarray(pixels).convert("L").resize((17, 16), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.int16)
    # A step of two grey levels, so that flat areas hash alike whatever the codec did to them.
    packed = np.packbits(values[:, 1:] > values[:, :-1] + 2).tobytes()
    red, green, blue = (float(value) for value in pixels.reshape(-1, 3).mean(axis=0))
    return Fingerprint(int.from_bytes(packed, "big"), (red, green, blue))


def fingerprint_of(picture: Image) -> Fingerprint:
    """The fingerprint of an RGB picture of any size."""
    factor = max(1, min(picture.size) // MEASURED_SIDE)
    return fingerprint(np.asarray(picture.reduce(factor) if factor > 1 else picture))
