"""Bytes of a picture to pixels: fast where that is safe, and refused where it is not."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]  # [H, W, 3], RGB
Transform = Callable[["Image", random.Random], Tensor]
"""A picture and the sample's own source of randomness to uint8 (or float) [3, H, W]."""


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


@runtime_checkable
class Crop(Protocol):
    """A transform that is a crop and a bicubic resize to a square, which can be fused with decoding."""

    size: int

    def box(self, width: int, height: int, rng: random.Random) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in pixels of a width x height picture."""
        ...


def decode(data: bytes, limits: Limits) -> Image:
    """The whole picture as RGB: transparency on white, 16 bits scaled to 8, the first frame of an animation.

    This is the reference of the fast paths. Raises Refused.
    """
    from PIL import Image as pil

    try:
        with pil.open(io.BytesIO(data)) as picture:
            limits.check(*picture.size)
            picture.load()
            return to_rgb(picture)
    except Refused:
        raise
    except pil.DecompressionBombError:
        raise Refused("bomb-sized picture") from None
    except Exception as error:  # PIL raises nearly anything on broken bytes
        raise Refused("undecodable picture") from error


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


def pixels(data: bytes, limits: Limits) -> Pixels:
    """The whole picture as an array, as `decode` gives it (for a cache of decoded pictures)."""
    return np.array(decode(data, limits))


def transformed(data: bytes, transform: Transform, rng: random.Random, limits: Limits) -> Tensor:
    """`transform` of the encoded picture: fused with decoding where the transform is a Crop and the picture a JPEG."""
    if isinstance(transform, Crop) and data[:2] == b"\xff\xd8":
        fast = _fused(data, transform, rng, limits)
        if fast is not None:
            return fast
    return transform(decode(data, limits), rng)


def of_pixels(held: Pixels, transform: Transform, rng: random.Random) -> Tensor:
    """`transform` of a picture that was decoded before."""
    from PIL import Image as pil

    return transform(pil.fromarray(held), rng)


def _fused(data: bytes, crop: Crop, rng: random.Random, limits: Limits) -> Tensor | None:
    """uint8 [3, size, size] by scaled JPEG decoding, then one resize of the box; None if simplejpeg declines."""
    import simplejpeg
    from PIL import Image as pil

    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    limits.check(width, height)
    state = rng.getstate()
    left, top, right, bottom = crop.box(width, height, rng)
    shrink = (
        min((right - left), (bottom - top)) / crop.size
    )  # how much smaller the picture may be and still fill the crop
    try:
        scaled = (
            cast(Any, simplejpeg).decode_jpeg(
                data, "RGB", min_height=int(height / shrink) + 1, min_width=int(width / shrink) + 1
            )
            if shrink > 1
            else simplejpeg.decode_jpeg(data, "RGB")
        )
    except ValueError:  # CMYK, or damaged: PIL decides, with the same random numbers
        rng.setstate(state)
        return None
    fx, fy = scaled.shape[1] / width, scaled.shape[0] / height
    box = (left * fx, top * fy, right * fx, bottom * fy)
    square = pil.fromarray(scaled).resize((crop.size, crop.size), pil.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)
