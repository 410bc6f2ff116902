"""Small shard sets of whose every sample it is known where it lies."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from PIL import Image

from data_pipelines.ledger import Ledger
from data_pipelines.loading.loader import Loader
from data_pipelines.shards.manifest import Manifest, ShardRecord
from data_pipelines.stream import Stream
from vlp.models.image_transform import RandomCrop


def picture(n: int) -> bytes:
    """A PNG of 8 x 8 pixels of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (n % 256, n // 256 % 256, 7)).save(out, "PNG")
    return out.getvalue()


def write(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shards(folder: Path, counts: Iterable[int], *, manifest: bool) -> dict[str, str]:
    """Shards of `counts` samples; the shard's file name of every key."""
    where, rows = {}, []
    for s, count in enumerate(counts):
        name, files = f"{s:05d}.tar", []
        for _ in range(count):
            n = len(where)
            where[f"{n:05d}"] = name
            files += [(f"{n:05d}.png", picture(n)), (f"{n:05d}.txt", f"caption {n}".encode())]
        data = write(folder / name, files).read_bytes()
        rows.append(ShardRecord(name, count, len(data), hashlib.sha256(data).hexdigest()))
    if manifest:
        Manifest("set", tuple(rows)).write(folder)
    return where


def opened(stream: Stream, batch: int) -> Loader:
    """The stream's batches, of pictures of 8 x 8."""
    loader = stream.open(
        transform=RandomCrop(size=8), tokenizer=lambda t: torch.ones(len(t), 2, dtype=torch.int64), global_batch=batch
    )
    assert isinstance(loader, Loader)
    return loader


def epoch(loader: Loader) -> tuple[set[str], Ledger]:
    """The keys that one epoch delivers, and what it says of the others."""
    try:
        keys = {key for batch in batches(loader) for key in batch}
        return keys, loader.ledger
    finally:
        loader.close()


def batches(loader: Loader) -> Iterator[tuple[str, ...]]:
    """The keys of each batch of one epoch."""
    for _ in range(loader.batches_per_epoch):
        yield tuple(next(iter(loader)).keys)


def counted(ledger: Ledger, shard: str) -> dict[str, int]:
    """By reason, what the ledger says was lost of a shard, by its file name."""
    total: dict[str, int] = {}
    for (reason, url), count in ledger.drops.items():
        if url.rsplit("/", 1)[-1] == shard:
            total[reason] = total.get(reason, 0) + count
    return total
