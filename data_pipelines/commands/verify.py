"""`vlp shards verify`: check sums, counts and every picture of a shard set; each problem is one sentence."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tyro.conf import Positional

from data_pipelines import captions
from data_pipelines.remote.fetch import Unreadable
from data_pipelines.shards.open_shards import OpenShards
from data_pipelines.shards.shard_set import UNKNOWN, ShardSet, is_remote
from vlp.config.bounds import Whole, check
from vlp.legible import plain
from vlp.pictures import Limits, Refused, decode


@dataclass(frozen=True)
class Verify:
    """Check a shard set and say every problem that it has."""

    spec: Positional[str]
    """shards: a folder, glob, brace range or URL of tars, or bundled:emoji/train"""
    pictures: bool = True
    """decode every picture; without it only sums, counts and captions are checked"""
    threads: Whole = 0
    """threads that decode; 0: one for each core"""


def problems(verify: Verify) -> Iterator[str]:
    """One sentence for everything that is wrong with the shards of `verify.spec`. Raises UserError if it names none."""
    shards = ShardSet.open(verify.spec)
    opened = OpenShards(shards)
    with ThreadPoolExecutor(verify.threads or os.cpu_count() or 1) as pool:
        for row, url in enumerate(shards.urls):
            try:
                yield from _bytes(url, shards.bytes[row], shards.sha256[row])
                yield from _samples(opened, row, shards.counts[row], verify, pool)
            except Unreadable as error:
                yield f"{url} cannot be read: {error}"


def _bytes(url: str, size: int, sha256: str) -> Iterator[str]:
    """Whether the file is the one the manifest speaks of."""
    if is_remote(url) or not os.path.exists(url):  # whoever reads it says that it is missing
        return
    now = os.path.getsize(url)
    if size not in (UNKNOWN, now):
        yield f"{url} has {now} bytes, but the manifest says {size}: copy it again"
    elif sha256:
        with open(url, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            yield f"{url} has sha256 {digest[:16]}..., but the manifest says {sha256[:16]}...: its bytes were changed"


def _samples(opened: OpenShards, row: int, count: int, verify: Verify, pool: ThreadPoolExecutor) -> Iterator[str]:
    shard = opened[row]
    for reason, lost in shard.index.lost.items():
        yield f"{shard.url} has {lost} {'sample' if lost == 1 else 'samples'} that cannot be used: {reason}"
    if count not in (UNKNOWN, len(shard)):
        yield f"{shard.url} has {len(shard)} samples, but the manifest says {count}"

    def one(position: int) -> str | None:
        try:
            raw = shard.sample(position)
        except Unreadable as error:
            return f"{shard.url}: sample {shard.index.keys[position]} cannot be read: {error}"
        if not captions.first(raw.record):
            return f"{shard.url}: sample {raw.key} has no caption"
        if verify.pictures:
            try:
                decode(raw.image, Limits())
            except Refused as refusal:
                return f"{shard.url}: sample {raw.key} has an {refusal}".replace("an bomb", "a bomb")
        return None

    yield from filter(None, pool.map(one, range(len(shard))))


def main(argv: list[str]) -> int:
    """`vlp shards verify SPEC`: 0 if all is well, 1 if there are problems. Raises UserError."""
    import tyro

    verify = tyro.cli(Verify, args=argv, prog="vlp shards verify")
    check(verify)
    count = 0
    for problem in problems(verify):
        print(plain(problem, 1000))
        count += 1
    shards = ShardSet.open(verify.spec)
    if count:
        print(f"{count} {'problem' if count == 1 else 'problems'} in {len(shards)} shards")
        return 1
    known = sum(shards.counts) if UNKNOWN not in shards.counts else None
    print(f"{len(shards)} shards{'' if known is None else f' with {known} samples'} are whole")
    return 0
