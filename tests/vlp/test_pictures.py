"""From the bytes of a picture file to RGB: every kind of file, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlp.pictures import Limits, Refused, decode

PHOTO = Image.open(Path(__file__).parents[1] / "photos" / "china.jpg").convert("RGB").crop((200, 60, 360, 180))
PIXELS = np.asarray(PHOTO).astype(int)


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def decoded(data: bytes) -> np.ndarray:
    picture = decode(data, Limits())
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize(
    "form, options",
    [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {}), ("PPM", {})],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_lossless_files_give_their_pixels(form: str, options: dict[str, object]) -> None:
    assert (decoded(encoded(PHOTO, form, **options)) == PIXELS).all()


def test_a_jpeg_for_print_looks_as_it_should() -> None:
    ours = decoded(encoded(PHOTO.convert("CMYK"), "JPEG", quality=95, subsampling=0))
    assert abs(ours - PIXELS).mean() < 3


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_of_8_and_of_16_bits(bits: int) -> None:
    grey = np.asarray(PHOTO.convert("L"))
    deep = grey if bits == 8 else grey.astype(np.uint16) * 256 + 255  # the low byte is cut off, not rounded up
    assert (decoded(encoded(Image.fromarray(deep), "PNG")) == grey[:, :, None]).all()


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_what_is_seen_through_lies_on_white(form: str) -> None:
    alpha = np.tile(np.linspace(0, 255, PHOTO.width).astype(np.uint8), (PHOTO.height, 1))
    clear = PHOTO.copy()
    clear.putalpha(Image.fromarray(alpha))
    data = encoded(clear, form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))
    share = alpha[:, :, None] / 255
    assert abs(decoded(data) - (PIXELS * share + 255 * (1 - share))).max() <= 1


def test_a_palette_with_a_transparent_colour() -> None:
    few = PHOTO.quantize(8)
    kept = np.asarray(few) != 3
    ours = decoded(encoded(few, "PNG", transparency=3))
    assert (ours[~kept] == 255).all()
    assert (ours[kept] == np.asarray(few.convert("RGB"))[kept]).all()


def test_the_first_picture_of_an_animation() -> None:
    data = encoded(PHOTO, "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", PHOTO.size)])
    assert (decoded(data) == PIXELS).all()


@pytest.mark.parametrize("data", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_or_a_program_is_refused(data: bytes) -> None:
    with pytest.raises(Refused, match="undecodable picture"):
        decode(data, Limits())
