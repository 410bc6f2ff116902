"""A corpus of broken tars, pictures and captions: what each still delivers, and what the ledger says of the rest.

Every case is read by itself and then all of them together, through worker processes; no case may hang.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.ledger import Ledger
from data_pipelines.loading.loader import Loader
from data_pipelines.settings import Workers
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.shards.tar_index import CUT
from data_pipelines.stream import Stream
from vlp.models.image_transform import RandomCrop

pytestmark = pytest.mark.timeout(120)
Files = list[tuple[str, bytes]]
COLOUR = (200, 30, 60)


def encoded(picture: Image.Image, form: str, **more: object) -> bytes:
    held = io.BytesIO()
    picture.save(held, form, **more)
    return held.getvalue()


PLAIN = Image.new("RGB", (40, 30), COLOUR)
PNG = encoded(PLAIN, "PNG")
OTHER = Image.new("RGB", (40, 30), (0, 0, 255))


def healthy(prefix: str, n: int) -> Files:
    return [(f"{prefix}{i}.{ext}", PNG if ext == "png" else b"fine") for i in range(n) for ext in ("png", "txt")]


def tar(files: Files, form: int = tarfile.GNU_FORMAT) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=form) as out:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return held.getvalue()


def header(name: str, kind: bytes, size: bytes) -> bytes:
    """A header whose size field holds these bytes; its sum is right."""
    head = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    head[124:136], head[156:157] = size.ljust(12, b"\0"), kind
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def pax(body: bytes) -> bytes:
    return header("pax", b"x", b"%011o" % len(body)) + body + bytes(-len(body) % 512)


def bomb() -> bytes:
    """A PNG of 50,000 x 50,000 pixels: 7.5 GB out of a few kilobytes a line, if anybody decoded it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    lines = zlib.compress(bytes(150_001) * 40, 9)
    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


@dataclass(frozen=True)
class Case:
    """A tar, the keys it delivers, the losses its index counts, and those that show when a sample is read."""

    tar: bytes
    keys: frozenset[str]
    index: dict[str, int] = field(default_factory=dict)
    reading: str = ""  # the reason of one sample


def of(prefix: str, *numbers: int) -> frozenset[str]:
    return frozenset(f"{prefix}{i}" for i in numbers)


def cut(prefix: str) -> bytes:
    """Five samples; the tar ends within the picture of the last."""
    whole = tar(healthy(prefix, 5))
    return whole[: whole.index(PNG, whole.index(f"{prefix}4.png".encode())) + 20]


def zeroed(prefix: str) -> bytes:
    """Six samples of which the third and fourth are zeros."""
    whole = bytearray(tar(healthy(prefix, 6)))
    start, stop = whole.index(f"{prefix}2.png".encode()), whole.index(f"{prefix}4.png".encode())
    whole[start:stop] = bytes(stop - start)
    return bytes(whole)


def tars() -> dict[str, Case]:
    """Containers that are damaged or hostile."""
    all4 = {p: of(p, 0, 1, 2, 3) for p in ("wo", "du", "lo", "gn", "px", "ne", "bi", "un", "dg")}
    shuffled = healthy("wo", 4)
    long = "deep/" * 60 + "x"
    return {
        "truncated": Case(
            cut("tr"), of("tr", 0, 1, 2, 3), {"truncated tail": 1, CUT: 1}
        ),  # the sample, and the missing end
        "zero-filled in the middle": Case(zeroed("ze"), of("ze", 0, 1, 4, 5), {"corrupt tar": 2}),
        "zero-filled throughout": Case(bytes(3 << 20), frozenset(), {"corrupt tar": 1}),
        "wrong order": Case(tar(shuffled[1::2][::-1] + shuffled[::2]), all4["wo"]),
        "duplicate keys": Case(tar(healthy("du", 4) + healthy("du", 2)), all4["du"], {"duplicate key": 2}),
        "long names, GNU": Case(
            tar([(f"{long}.png", PNG), (f"{long}.txt", b"x"), *healthy("lo", 4)]), all4["lo"] | {long}
        ),
        "long names, pax": Case(
            tar([(f"{long}y.png", PNG), (f"{long}y.txt", b"x")], tarfile.PAX_FORMAT), frozenset({f"{long}y"})
        ),
        "a GNU name of a terabyte": Case(
            header("././@LongLink", b"L", b"\x80" + (1 << 40).to_bytes(11, "big")) + tar(healthy("gn", 4)),
            frozenset(),
            {"corrupt tar": 1, CUT: 1},
        ),
        "a GNU name of 2 MiB": Case(
            header("././@LongLink", b"L", b"%011o" % (1 << 21)) + b"a" * (1 << 21) + tar(healthy("gn", 4)),
            all4["gn"],
            {"corrupt tar": 1},
        ),
        "a pax header of 2 MiB": Case(
            pax(b"2097152 path=" + b"a" * (1 << 21)) + tar(healthy("px", 4)), all4["px"], {"corrupt tar": 1}
        ),
        "pax numbers that are none": Case(
            pax(b"9" * 9000 + b" size=1\n") + pax("14 size=²²²²\n".encode()) + tar(healthy("dg", 4)), all4["dg"]
        ),
        "a negative size": Case(
            header("a.png", b"0", b"-2000") + tar(healthy("ne", 4)), all4["ne"], {"missing caption": 1}
        ),
        "a size beyond all disks": Case(
            tar(healthy("bi", 4))[: 8 * 1024] + header("z.png", b"0", b"\xff" * 12),
            all4["bi"],
            {"truncated tail": 1, CUT: 1},
        ),
        "path traversal": Case(
            tar(
                [(f"{n}.{e}", PNG) for n in ("../../etc/x", "/etc/y", "a/../z") for e in ("png", "txt")]
                + healthy("un", 4)
            ),
            all4["un"],
            {"unsafe name": 3},
        ),
    }


def pictures() -> dict[str, Case]:
    """Pictures that are odd, and are read; or that are broken or hostile, and are not."""
    moving = {"save_all": True, "append_images": [OTHER] * 3, "duration": 50}
    wide = np.zeros((30, 40), np.uint16) + 200 * 257
    good = {
        "CMYK JPEG": encoded(PLAIN.convert("CMYK"), "JPEG", quality=95),
        "16-bit PNG": encoded(Image.fromarray(wide), "PNG"),
        "animated GIF": encoded(PLAIN, "GIF", **moving),
        "animated WebP": encoded(PLAIN, "WEBP", lossless=True, **moving),
    }
    bad = {
        "50,000 x 50,000 PNG": ("bomb-sized picture", bomb()),
        "half a JPEG": ("undecodable picture", encoded(PLAIN.resize((400, 300)), "JPEG")[:700]),
        "an empty picture": ("undecodable picture", b""),
        "a page of HTML": ("undecodable picture", b"<html>404</html>" * 40),
        "PostScript": ("undecodable picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\nshowpage\n"),
    }
    cases = {}
    for i, (name, data) in enumerate(good.items()):
        cases[name] = Case(
            tar([(f"g{i}-.jpg", data), (f"g{i}-.txt", b"x"), *healthy(f"g{i}-", 2)]), of(f"g{i}-", 0, 1) | {f"g{i}-"}
        )
    for i, (name, (reason, data)) in enumerate(bad.items()):
        files = [(f"b{i}-.jpg", data), (f"b{i}-.txt", b"x"), *healthy(f"b{i}-", 3)]
        cases[name] = Case(tar(files), of(f"b{i}-", 0, 1, 2), reading=reason)
    return cases


def captions() -> dict[str, Case]:
    """Captions that are empty or no text."""
    texts: dict[str, tuple[str, Files]] = {
        "an empty caption": ("missing caption", [("txt", b"")]),
        "a blank caption": ("missing caption", [("txt", b" \t\r\n\xc2\xa0")]),
        "no caption in the .json": ("missing caption", [("json", b'{"captions": {"en": "", "zh": []}, "txt": 7}')]),
        "a caption that is not UTF-8": ("undecodable caption", [("txt", "un café".encode("latin-1"))]),
        "a .json that is not UTF-8": ("undecodable caption", [("json", '{"txt": "café"}'.encode("latin-1"))]),
        "a .json without end": ("undecodable caption", [("json", b"[" * 200_000)]),
        "half a surrogate pair": ("undecodable caption", [("json", rb'{"txt": "\uD83d"}')]),
        "half a surrogate pair in bytes": ("undecodable caption", [("json", b'{"txt": "\xed\xa0\xbd"}')]),
    }
    cases = {}
    for i, (name, (reason, files)) in enumerate(texts.items()):
        held = [(f"t{i}-.png", PNG), *((f"t{i}-.{ext}", data) for ext, data in files), *healthy(f"t{i}-", 3)]
        cases[name] = Case(tar(held), of(f"t{i}-", 0, 1, 2), reading=reason)
    both = [("u.png", PNG), ("u.txt", b"\xff\xfe"), ("u.json", json.dumps({"captions": {"txt": "said"}}).encode())]
    return cases | {
        "a caption that is not UTF-8 beside one that is": Case(tar([*both, *healthy("u", 1)]), of("u", 0) | {"u"})
    }


CASES = tars() | pictures() | captions()


def tokenizer(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[len(text.encode())] for text in texts])


def opened(folder: Path, batch: int, **more: object) -> Loader:
    stream = Stream(shards=str(folder), drop_budget=1.0, last="drop", **more)  # type: ignore[arg-type]
    return stream.open(
        transform=RandomCrop(size=8, scale=(1, 1), ratio=(1, 1)), tokenizer=tokenizer, global_batch=batch
    )


def epoch(loader: Loader) -> Counter[str]:
    """How often each key comes in an epoch; every picture must show the colour that all of them have."""
    seen: Counter[str] = Counter()
    for _ in range(loader.batches_per_epoch):
        batch = next(iter(loader))
        seen.update(batch.keys)
        for key, image in zip(batch.keys, batch.image, strict=True):
            want = (200, 200, 200) if key == "g1-" else COLOUR  # the 16-bit one is grey
            assert all(abs(int(a) - b) < 9 for a, b in zip(image[:, 4, 4].tolist(), want, strict=True)), key
    return seen


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.keys])
def test_a_broken_shard_delivers_what_is_whole_and_counts_the_rest(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    (tmp_path / "a.tar").write_bytes(case.tar)
    loader = opened(tmp_path, 1)
    assert loader.ledger.by_reason() == case.index
    seen = epoch(loader)
    assert set(seen) == case.keys
    found = Counter(loader.ledger.by_reason())
    found.subtract(case.index)
    lost = {reason: n for reason, n in found.items() if n}
    assert set(lost) == ({case.reading} if case.reading else set())
    assert sum(seen.values()) - len(seen) == (1 if lost else 0)  # where it stood, another one comes again
    assert all(1 <= n <= 2 for n in lost.values())


@pytest.mark.parametrize("name", list(CASES))
def test_reading_in_order_counts_the_same(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    (tmp_path / "a.tar").write_bytes(case.tar)
    ledger = Ledger()
    keys = {s.key for s in read_samples(ShardSet.open(str(tmp_path)), skip=ledger)}
    assert keys >= case.keys
    assert ledger.by_reason() == case.index


def test_the_whole_corpus_goes_through_workers(tmp_path: Path) -> None:
    """Every loss is in the ledger under its shard, every whole sample comes, and workers change nothing of that."""
    for i, case in enumerate(CASES.values()):
        (tmp_path / f"{i:03d}.tar").write_bytes(case.tar)
    one, many = opened(tmp_path, 6), opened(tmp_path, 6, workers=Workers(count=2, start_method="fork"))
    for _ in range(2):
        seen = epoch(many)
        assert seen == epoch(one)
        assert len(set().union(*(c.keys for c in CASES.values())) - set(seen)) < 6  # the last batch is left out
    assert many.state_dict() == one.state_dict()
    lost = {(Path(shard).stem, reason) for reason, shard in many.ledger.drops}
    want = {(f"{i:03d}", r) for i, c in enumerate(CASES.values()) for r in {*c.index, c.reading} - {""}}
    assert lost == want
    assert many.ledger.restarts == 0
    many.close()
