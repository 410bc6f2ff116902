"""Drawings as pixels: rendered, flattened on white, square."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]  # [side, side, 3]
MARGIN = 0.04  # of the side, around drawings whose page is larger than they are


def render(picture: str | bytes | Path, side: int, crop: bool) -> Pixels | None:
    """The picture as [side, side, 3] on white; None if it cannot be drawn or shows nothing."""
    try:
        image = _draw(picture, side, crop)
    except (ValueError, OSError):
        return None
    if crop:
        image = _centred(image.crop(_ink(image)), side, round(side * (1 - 2 * MARGIN)))
    elif image.size != (side, side):
        image = _centred(image, side, side)
    pixels = np.asarray(image, dtype=np.uint8)
    return None if pixels.std(axis=(0, 1)).max() < 4 else pixels


def _draw(picture: str | bytes | Path, side: int, crop: bool) -> Image.Image:
    if isinstance(picture, bytes) or (isinstance(picture, Path) and picture.suffix != ".svg"):
        flat = _on_white(Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture))
        return flat if crop else flat.resize((side, side), Image.Resampling.LANCZOS)
    import resvg_py

    text = picture if isinstance(picture, str) else picture.read_text(encoding="utf-8", errors="replace")
    width = side * 4 if crop else side
    png = resvg_py.svg_to_bytes(svg_string=text, width=width, dpi=96, skip_system_fonts=True)
    return _on_white(Image.open(io.BytesIO(bytes(png))))


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _ink(image: Image.Image) -> tuple[int, int, int, int]:
    """The box around everything that is not white; the whole page if nothing is."""
    rows, columns = np.nonzero((np.asarray(image) < 250).any(axis=2))
    if len(rows) == 0:
        return (0, 0, *image.size)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _centred(image: Image.Image, side: int, inner: int) -> Image.Image:
    """`image` scaled so that its longer side is `inner`, in the middle of a white square."""
    scale = inner / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    square = Image.new("RGB", (side, side), "white")
    square.paste(image.resize(size, Image.Resampling.LANCZOS), ((side - size[0]) // 2, (side - size[1]) // 2))
    return square
