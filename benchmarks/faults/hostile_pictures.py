"""Pictures that want all memory, all time, or another program; each among three good ones in a tar."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.faults import tars
from data_pipelines.stream import Stream

GOOD = 3


def inputs(rng: random.Random) -> dict[str, Callable[[Path], None]]:
    """By name: an input, as a function that has it read in a folder."""
    noise = rng.randbytes(3000)
    pictures: dict[str, Callable[[], bytes]] = {
        "a strip of 63,000,000 x 1": lambda: png(63_000_000, 1),
        "a strip of 1 x 66,000": lambda: png(1, 66_000, colour=0),
        "64,008,000 grey pixels": lambda: png(8001, 8000, colour=0),
        "16 bits and four channels of 7,999 x 8,000": lambda: png(7999, 8000, bits=16, colour=6),
        "a header of 2^31 x 2^31": lambda: header(2**31 - 1, 2**31 - 1),
        "a JPEG of 500 scans": lambda: jpeg_of(500),
        "a JPEG of 3,000 scans of 2,000 x 2,000": lambda: jpeg_of(3000, 2000),
        "a JPEG that says 65,500 x 65,500": lambda: taller(jpeg_of(12)),
        "a TIFF of one tile of 60,000 x 60,000": tiff_of_a_large_tile,
        "an EPS that starts a program": lambda: (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n"
        ),
        "a text chunk that unpacks to 200 MB": lambda: with_chunk(
            b"zTXt", b"k\0\0" + zlib.compress(bytes(200_000_000))
        ),
        "a colour profile that unpacks to 200 MB": lambda: with_chunk(
            b"iCCP", b"k\0\0" + zlib.compress(bytes(200_000_000))
        ),
        "a GIF of 20,000 frames": lambda: gif_of(20_000),
        "a BMP that says -1 x -1": lambda: (
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, -1, -1, 1, 24, *[0] * 6)
        ),
        "a WebP whose size is a lie": lambda: b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff" + noise,
        "a PPM of 10^9 pixels": lambda: b"P6 100000 10000 255\n" + noise,
        "a PNG that ends in its middle": lambda: png(64, 64)[:90],
        "a JPEG of noise": lambda: jpeg_of(3)[:200] + noise,
        "nothing": lambda: b"",
        "noise": lambda: noise,
    }
    return {f"picture: {name}": partial(read, make) for name, make in pictures.items()}


def read(make: Callable[[], bytes], folder: Path) -> None:
    """Stream three good pictures and this one: the good ones come, and this one comes or is counted."""
    files = [(f"{n}.{end}", tars.picture(n) if end == "png" else b"a") for n in range(GOOD) for end in ("png", "txt")]
    tars.write(folder / "set" / "0.tar", [*files, ("bomb.png", make()), ("bomb.txt", b"a")])
    keys, ledger = tars.epoch(tars.opened(Stream(shards=str(folder / "set"), drop_budget=1.0), 1))
    assert len(keys - {"bomb"}) == GOOD, f"only {keys} came"
    assert ("bomb" in keys) != (ledger.lost == 1), f"{keys} came, {ledger.sentence()}"


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def header(width: int, height: int, bits: int = 8, colour: int = 2) -> bytes:
    """The beginning of a PNG; colour: 0 grey, 2 RGB, 6 RGBA."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))


def png(width: int, height: int, *, bits: int = 8, colour: int = 2) -> bytes:
    """A black PNG of nearly no bytes."""
    squeezed = zlib.compressobj(1)
    row = bytes(1 + width * {0: 1, 2: 3, 6: 4}[colour] * bits // 8)
    body = b"".join(squeezed.compress(row) for _ in range(height)) + squeezed.flush()
    return header(width, height, bits, colour) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def with_chunk(name: bytes, data: bytes) -> bytes:
    """A small PNG with one more chunk after its header."""
    small = png(8, 8)
    return small[:33] + chunk(name, data) + small[33:]


def jpeg_of(scans: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan comes again until there are so many."""
    out = io.BytesIO()
    Image.new("L", (side, side), 77).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * max(1, scans - data.count(b"\xff\xda") + 1) + data[-2:]


def taller(jpeg: bytes) -> bytes:
    """The JPEG with another size in its header."""
    at = jpeg.index(b"\xff\xc2") + 5
    return jpeg[:at] + struct.pack(">HH", 65_500, 65_500) + jpeg[at + 4 :]


def tiff_of_a_large_tile() -> bytes:
    """A TIFF of 16 x 16 pixels in one tile of 60,000 x 60,000."""
    entries = [(256, 16), (257, 16), (258, 8), (259, 5), (262, 1), (277, 1), (322, 60000), (323, 60000), (324, 8)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*entries, (325, 40)])
    return b"II*\0" + struct.pack("<I", 48) + bytes(40) + struct.pack("<H", 10) + directory + bytes(4)


def gif_of(frames: int) -> bytes:
    """A GIF of so many frames of one pixel."""
    out = io.BytesIO()
    Image.new("L", (8, 8)).save(out, "GIF", save_all=True, append_images=[Image.new("L", (8, 8), 9)])
    data = out.getvalue()
    at = data.rfind(b"\x21\xf9")
    return data[:at] + data[at:-1] * frames + b";"
