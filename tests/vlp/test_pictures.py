"""From the bytes of a picture file to RGB: every kind of file, and what is refused."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.decode import batch_memory, fill
from vlp.models.image_transform import EvaluationCrop, ImageTransform
from vlp.pictures import Limits, Refused, decode, has_more_scans, may_have_many_scans, to_rgb

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


def png(width: int, height: int, *, bits: int = 8, colour: int = 2, transparent: bool = False) -> bytes:
    """A black PNG of nearly no bytes; colour: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    squeezed = zlib.compressobj(1)
    row = bytes(1 + width * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * bits // 8)
    body = b"".join(squeezed.compress(row) for _ in range(height)) + squeezed.flush()
    parts = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    parts += chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    parts += chunk(b"tRNS", bytes(256)) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg_of(scans: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan comes again until there are so many."""
    data = encoded(Image.new("L", (side, side), 77), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * (scans - data.count(b"\xff\xda") + 1) + data[-2:]


def tiff_of_a_large_tile() -> bytes:
    """A TIFF of 16 x 16 pixels in one tile of 60,000 x 60,000."""
    entries = [(256, 16), (257, 16), (258, 8), (259, 5), (262, 1), (277, 1), (322, 60000), (323, 60000), (324, 8)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*entries, (325, 40)])
    return b"II*\0" + struct.pack("<I", 48) + bytes(40) + struct.pack("<H", 10) + directory + bytes(4)


BOMBS = {
    "a strip across": lambda: png(63_000_000, 1),
    "a strip downwards": lambda: png(1, 66_000, colour=0),
    "too many pixels": lambda: png(8001, 8000, colour=0),
    "500 scans": lambda: jpeg_of(500),
    "a large tile": tiff_of_a_large_tile,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_before_they_are_decoded(bomb: str) -> None:
    data = BOMBS[bomb]()
    with pytest.raises(Refused, match="bomb-sized picture"):
        decode(data, Limits())
    with pytest.raises(Refused, match="bomb-sized picture"):
        fill(OUT, data, EvaluationCrop(ImageTransform(size=64)), random.Random(0), Limits())


OUT = batch_memory(1, (3, 64, 64), torch.uint8)[0]


def test_scans_are_counted_exactly() -> None:
    assert not has_more_scans(jpeg_of(12), 12)
    assert has_more_scans(jpeg_of(13), 12)
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + 60) + b"\xff\xda" * 30  # of an application's own segment
    data = jpeg_of(12)
    assert not has_more_scans(data[:2] + thumbnail + data[2:] + b"\xff\xda\0\0" * 50, 12)


def test_only_jpegs_that_may_have_many_scans_are_looked_through() -> None:
    assert not may_have_many_scans(encoded(PHOTO, "JPEG"))
    assert not may_have_many_scans(encoded(PHOTO.convert("L"), "JPEG", exif=b"Exif\0\0" + bytes(900)))
    assert may_have_many_scans(encoded(PHOTO, "JPEG", progressive=True))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "I"])
def test_a_large_picture_is_converted_as_a_small_one(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlp.pictures.STRIP_PIXELS", 1 << 40)
    values = np.random.default_rng(0).integers(0, 1 << 16, (60, 40), np.uint16)
    wide = Image.fromarray(values if mode == "I;16" else values.astype(np.int32))
    clear = PHOTO.copy()
    clear.putalpha(PHOTO.convert("L").rotate(180))
    picture = wide if mode.startswith("I") else clear.quantize(64) if mode == "P" else clear.convert(mode)
    at_once = np.asarray(to_rgb(picture))
    monkeypatch.setattr("vlp.pictures.STRIP_PIXELS", 1000)
    assert (np.asarray(to_rgb(picture)) == at_once).all()


MEASURED = """
import resource, sys
from vlp.pictures import Limits, decode
decode(open(sys.argv[2], "rb").read(), Limits())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(open(sys.argv[1], "rb").read(), Limits())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("colour, bits", [(0, 16), (2, 16), (3, 8), (4, 16), (6, 16), (6, 8)])
def test_memory_of_a_decoding_is_8_bytes_a_pixel_at_most(tmp_path: Path, colour: int, bits: int) -> None:
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    large.write_bytes(png(8000, 8000, bits=bits, colour=colour, transparent=colour == 3))
    small.write_bytes(png(8, 8, bits=bits, colour=colour, transparent=colour == 3))
    done = subprocess.run([sys.executable, "-c", MEASURED, large, small], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 8 * 64_000_000 + (64 << 20)
