"""Bytes of a picture to the rows of a batch: the fast paths, each with `vlp.pictures` as its reference."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, TypeGuard, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlp.pictures import Limits, decode

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]  # [H, W, 3], RGB
STRIP = 16  # longer pictures are left to the transform itself: scaled as a whole they could fill the memory
Transform = Callable[["Image", random.Random], Tensor]
"""A picture and the sample's own source of randomness to uint8 (or float) [3, H, W]."""


class Crop(Protocol):
    """A transform that is a crop and a bicubic resize to a square, which can be fused with decoding."""

    size: int

    def box(self, width: int, height: int, rng: random.Random) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in pixels of a width x height picture."""
        ...


class Fit(Protocol):
    """A transform that scales the whole picture and lays it into a square, which can be fused with decoding."""

    size: int
    interpolation: Literal["bicubic", "bilinear"]
    fill: int

    def fit(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the scaled width x height picture in the square; the rest is cut off."""
        ...


class Changed(Protocol):
    """A transform with something that is done to its pixels afterwards, which fusing leaves out."""

    crop: Transform

    def change(self, pixels: Tensor, rng: random.Random) -> Tensor:
        """The pixels uint8 [3, size, size] of `crop`, changed."""
        ...


def is_changed(transform: Transform | Crop | Fit | Changed) -> TypeGuard[Changed]:
    """Whether a transform changes the pixels of another one."""
    return hasattr(transform, "change")


def is_crop(transform: Transform | Crop | Fit) -> TypeGuard[Crop]:
    """Whether a transform can be fused with decoding (an attribute look-up: this is asked for every picture)."""
    return hasattr(transform, "box")


def is_fit(transform: Transform | Crop | Fit) -> TypeGuard[Fit]:
    """Whether a transform lays the whole picture into a square, and can be fused with decoding."""
    return hasattr(transform, "fit")


def pixels(data: bytes, limits: Limits) -> Pixels:
    """The whole picture as an array, as `decode` gives it (for a cache of decoded pictures)."""
    return np.array(decode(data, limits))


def fill(out: Tensor, data: bytes, transform: Transform, rng: random.Random, limits: Limits) -> None:
    """Write `transform` of the encoded picture into `out` [3, H, W]; a Crop or a Fit is fused with decoding.

    Raises Refused.
    """
    if is_changed(transform):
        fill(out, data, transform.crop, rng, limits)
        out.copy_(transform.change(out, rng))
        return
    if not (is_crop(transform) or is_fit(transform)):
        out.copy_(transform(decode(data, limits), rng))
        return
    size = _jpeg_size(data)
    if size is None:
        fill_from(out, pixels(data, limits), transform, rng)
        return
    limits.check(*size)
    limits.check_scans(data)
    if is_fit(transform):
        fill_from(out, _decoded(data, limits, shrink=1), transform, rng)  # at scale: 1 to 3 grey levels off
        return
    assert is_crop(transform)
    box = transform.box(*size, rng)
    whole = _decoded(data, limits, shrink=min(box[2] - box[0], box[3] - box[1]) / transform.size)
    fx, fy = whole.shape[1] / size[0], whole.shape[0] / size[1]
    _resize(out, whole, (round(box[0] * fx), round(box[1] * fy), round(box[2] * fx), round(box[3] * fy)))


def fill_from(out: Tensor, whole: Pixels, transform: Transform | Crop | Fit, rng: random.Random) -> None:
    """Write `transform` of a decoded picture into `out` [3, H, W]."""
    if is_changed(transform):
        fill_from(out, whole, transform.crop, rng)
        out.copy_(transform.change(out, rng))
        return
    if is_fit(transform) and max(whole.shape[:2]) <= STRIP * min(whole.shape[:2]):
        _lay(out, whole, transform)
        return
    if is_crop(transform):
        _resize(out, whole, transform.box(whole.shape[1], whole.shape[0], rng))
        return
    from PIL import Image as pil

    out.copy_(cast(Transform, transform)(pil.fromarray(whole), rng))


def batch_memory(n: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised batch [n, ..., 3, H, W] that lies in memory row by row, RGB together, as decoders write."""
    *views, channels, height, width = shape
    return torch.empty((n, *views, height, width, channels), dtype=dtype).movedim(-1, -3)


def _resize(out: Tensor, whole: Pixels, box: tuple[int, int, int, int]) -> None:
    """Bicubic resize with antialias of a box of `whole` into `out` [3, size, size], straight into its memory."""
    left, top, right, bottom = box
    cut = torch.from_numpy(np.ascontiguousarray(whole[top:bottom, left:right])).permute(2, 0, 1)
    if cut.shape == out.shape:
        out.copy_(cut)
    else:
        torch.ops.aten._upsample_bicubic2d_aa.out(cut[None], list(out.shape[1:]), False, None, None, out=out[None])


def _lay(out: Tensor, picture: Pixels, fit: Fit) -> None:
    """The whole picture, scaled with antialias to its place in `out` [3, size, size]."""
    left, top, right, bottom = fit.fit(picture.shape[1], picture.shape[0])
    whole = torch.from_numpy(picture).permute(2, 0, 1)
    if whole.shape[1:] != (bottom - top, right - left):
        aten = torch.ops.aten
        resize = aten._upsample_bicubic2d_aa if fit.interpolation == "bicubic" else aten._upsample_bilinear2d_aa
        whole = resize(whole[None], [bottom - top, right - left], False)[0]
    if left > 0 or top > 0 or right < fit.size or bottom < fit.size:
        out.fill_(fit.fill)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, fit.size), min(bottom, fit.size)
    out[:, y0:y1, x0:x1] = whole[:, y0 - top : y1 - top, x0 - left : x1 - left]


def _decoded(data: bytes, limits: Limits, *, shrink: float) -> Pixels:
    """The JPEG, at 1/2, 1/4 or 1/8 where `shrink` allows. Raises Refused."""
    fast = _jpeg(data, shrink=shrink)
    return pixels(data, limits) if fast is None else fast


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG, None if the bytes are none."""
    import simplejpeg

    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return width, height


def _jpeg(data: bytes, *, shrink: float) -> Pixels | None:
    """The JPEG by libjpeg-turbo, decoded at 1/2, 1/4 or 1/8 where `shrink` allows; None where PIL must decide.

    Only these scales are decoded faster than the whole picture.
    """
    import simplejpeg

    height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    if space == "CMYK":
        return None
    scale = next((k for k in (8, 4, 2) if k <= shrink), 1)
    try:
        least = {"min_height": -(-height // scale), "min_width": -(-width // scale)} if scale > 1 else {}
        whole: Pixels = simplejpeg.decode_jpeg(data, "RGB", **least)
    except ValueError:
        return None
    return whole
