"""Fast decoding against the reference, and pictures that are refused or hard."""

from __future__ import annotations

import io
import random
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.decode import batch_memory, fill, fill_from, pixels
from vlp.models.image_transform import ImageTransform, RandomCrop, to_tensor
from vlp.pictures import Limits, Refused, decode

LIMITS = Limits()


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with smooth parts, edges and some grain, as photographs have."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 24), max(2, width // 24), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    smooth[height // 4 : height // 2, width // 3 : width // 2] = (250, 10, 30)
    return Image.fromarray((smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8))


def encoded(picture: Image.Image, form: str, **more: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **more)
    return out.getvalue()


def filled(data: bytes, transform: RandomCrop | ImageTransform | Fixed, seed: int) -> np.ndarray:
    out = batch_memory(1, (3, transform.size, transform.size), torch.uint8)[0]
    fill(out, data, transform, random.Random(seed), LIMITS)
    return out.numpy().astype(np.int64)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("shape", [(384, 384), (500, 333), (90, 200), (600, 500)])
def test_the_fused_crop_is_the_reference_within_a_small_error(form: str, shape: tuple[int, int]) -> None:
    data = encoded(scene(*shape), form, quality=90)
    for seed in range(3):
        crop = RandomCrop(size=224, scale=(0.5, 1.0))
        want = crop(decode(data, LIMITS), random.Random(seed)).numpy().astype(np.int64)
        error = abs(filled(data, crop, seed) - want)
        scaled = form == "JPEG" and min(shape) >= 2 * 224
        assert error.mean() < (5.0 if scaled else 0.1)  # levels of 255; a scaled crop is up to half a pixel off
        if not scaled:
            assert error[:, 4:-4, 4:-4].max() <= 2


@dataclass(frozen=True)
class Fixed:
    """A crop that is the same each time, on the grid of pictures decoded at 1/8."""

    size: int = 100

    def box(self, width: int, height: int, rng: random.Random) -> tuple[int, int, int, int]:
        return 80, 40, 80 + 640, 40 + 480

    def __call__(self, picture: Image.Image, rng: random.Random) -> torch.Tensor:
        box = self.box(*picture.size, rng)
        return to_tensor(picture.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box))


@pytest.mark.parametrize("size", [50, 100, 200])
def test_scaled_decoding_is_near_the_reference(size: int) -> None:
    data = encoded(scene(1200, 900), "JPEG", quality=90)
    want = Fixed(size)(decode(data, LIMITS), random.Random(0)).numpy().astype(np.int64)
    assert abs(filled(data, Fixed(size), 0) - want).mean() < 2.0


def test_other_transforms_get_the_whole_picture() -> None:
    data = encoded(scene(120, 80), "JPEG")
    want = ImageTransform(64)(decode(data, LIMITS)).numpy()
    assert (filled(data, ImageTransform(64), 0) == want).all()


def test_a_picture_of_the_right_size_is_not_resampled() -> None:
    crop = RandomCrop(size=64, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    picture = scene(64, 64)
    out = batch_memory(1, (3, 64, 64), torch.uint8)[0]
    fill_from(out, np.array(picture), crop, random.Random(0))
    assert (out.permute(1, 2, 0).numpy() == np.asarray(picture)).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims this size; its pixels are missing, so only a look at the header can refuse it rightly."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_bombs_are_refused_before_they_are_decoded() -> None:
    for side in (9000, 50_000):
        with pytest.raises(Refused, match="bomb-sized picture"):
            decode(bomb(side, side), LIMITS)
    with pytest.raises(Refused, match="bomb-sized picture"):
        filled(encoded(scene(300, 300), "JPEG").replace(b"\x01\x2c\x01\x2c", b"\xff\xff\xff\xff"), RandomCrop(64), 0)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0garbage", b"RIFF____WEBP", b"\0" * 100])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(Refused, match="undecodable picture"):
        filled(data, RandomCrop(64), 0)


def test_a_jpeg_cut_in_half_is_refused() -> None:
    data = encoded(scene(300, 300), "JPEG")
    with pytest.raises(Refused, match="undecodable picture"):
        filled(data[: len(data) // 2], RandomCrop(64), 0)


def test_unusual_pictures_are_read_as_rgb() -> None:
    colour = Image.new("RGB", (40, 30), (200, 30, 60))
    cmyk = pixels(encoded(colour.convert("CMYK"), "JPEG", quality=95), LIMITS)
    assert abs(cmyk.astype(int) - (200, 30, 60)).max() < 8
    assert filled(encoded(colour.convert("CMYK"), "JPEG", quality=95), RandomCrop(16), 0).shape == (3, 16, 16)
    wide = Image.fromarray(np.full((30, 40), 0x8000, np.uint16))
    assert pixels(encoded(wide, "PNG"), LIMITS).tolist()[0][0] == [128, 128, 128]
    moving = encoded(colour, "GIF", save_all=True, append_images=[Image.new("RGB", (40, 30), (0, 0, 255))])
    assert abs(pixels(moving, LIMITS).astype(int) - (200, 30, 60)).max() < 8
    clear = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    assert (pixels(encoded(clear, "PNG"), LIMITS) == 255).all()
    assert (pixels(encoded(clear, "WEBP"), LIMITS) == 255).all()
    grey = pixels(encoded(Image.new("L", (40, 30), 77), "JPEG"), LIMITS)
    assert grey.shape == (30, 40, 3)
    palette = Image.new("P", (40, 30), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    assert pixels(encoded(palette, "PNG"), LIMITS).tolist()[0][0] == [9, 8, 7]


def test_small_pictures_can_be_filtered() -> None:
    with pytest.raises(Refused, match="filtered"):
        decode(encoded(scene(300, 60), "PNG"), Limits(min_side=64))
