"""Tars of small pictures, made once for all tests of the stream."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def _picture(n: int) -> bytes:
    """A PNG of 8 x 8 pixels, all of one colour that tells `n`."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (8, 8), (n % 256, n // 256 % 256, 7)).save(out, "PNG")
    return out.getvalue()


def _write(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="session")
def picture() -> Callable[[int], bytes]:
    return _picture


@pytest.fixture(scope="session")
def write_tar() -> Callable[[Path, Iterable[tuple[str, bytes]]], Path]:
    """write_tar(path, [(name, bytes), ...])."""
    return _write


def _shards(folder: Path, counts: Iterable[int], broken: frozenset[int] = frozenset()) -> Path:
    """Shards of `counts` samples; sample n has key n, captions "en n" and "zh n", and no picture if it is broken."""
    folder.mkdir(parents=True, exist_ok=True)
    n = 0
    for s, count in enumerate(counts):
        files: list[tuple[str, bytes]] = []
        for _ in range(count):
            record: dict[str, Any] = {"captions": {"en": f"en {n}", "zh": f"zh {n}"}, "tags": {"en": ["a", "b"]}}
            files += [
                (f"{n:05d}.png", b"broken" if n in broken else _picture(n)),
                (f"{n:05d}.txt", f"caption {n}".encode()),
                (f"{n:05d}.json", json.dumps({**record, "concept": f"c{n // 2}"}).encode()),
            ]
            n += 1
        _write(folder / f"{s:05d}.tar", files)
    return folder


@pytest.fixture(scope="session")
def make_shards() -> Callable[..., Path]:
    """make_shards(folder, [7, 3, 12], broken={4}) -> folder."""
    return _shards


@pytest.fixture(scope="session")
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
