"""Shard sets damaged at random: every sample is delivered or counted."""

from __future__ import annotations

import random
import tarfile
from collections import Counter
from pathlib import Path

from benchmarks.faults import tars
from data_pipelines.shards.checks import Verify
from data_pipelines.stream import Stream
from vlp.errors import UserError

UNKNOWN = "cut, unknown loss"


def attack(folder: Path, rng: random.Random, size: int) -> dict[str, tuple[int, str]]:
    """`size` damaged sets, every second one with a manifest."""
    uncounted = sum(one(folder / str(n), rng, manifest=n % 2 == 0) for n in range(size))
    return {"uncounted": (uncounted, f"samples of {size} damaged sets")}


def one(folder: Path, rng: random.Random, *, manifest: bool) -> int:
    """The samples of a set with three damaged shards of six that are neither delivered nor counted, or both."""
    where = tars.shards(folder, [rng.randint(5, 60) for _ in range(6)], manifest=manifest)
    kinds = ["cut", "zeros", "noise", "empty", "swapped"] + ["gone", "other"] * manifest  # of which nobody else knows
    chosen = rng.choices(kinds, k=3)
    for path, kind in zip(rng.sample(sorted(folder.glob("*.tar")), 3), chosen, strict=True):
        damage(path, kind, rng)
    sums: Verify = "sha256" if "other" in chosen else "size"  # a set's tars may well be alike in size and count
    try:
        keys, ledger = tars.epoch(tars.opened(Stream(shards=str(folder), drop_budget=1.0, verify=sums), 7))
    except UserError:
        return 0  # refused, with a sentence
    missing = Counter(shard for key, shard in where.items() if key not in keys)
    wrong = 0
    for shard in set(where.values()):
        by_reason = tars.counted(ledger, shard)
        if manifest:
            wrong += abs(missing[shard] - sum(by_reason.values()))
        elif UNKNOWN not in by_reason and not looks_whole(folder / shard):
            wrong += max(0, missing[shard] - sum(by_reason.values()))
    return wrong


def looks_whole(path: Path) -> bool:
    """Whether nothing in a tar says that it is damaged: what is not a file is an end as tars have it.

    That is what `cat a.tar b.tar` gives too, where zeros fill a record of 10,240 bytes before the next file.
    """
    data, last = path.read_bytes(), 0
    try:
        with tarfile.open(path, ignore_zeros=True) as tar:
            for member in tar.getmembers():
                joined = member.offset == -(-(last + 1024) // 10240) * 10240
                if member.offset != last and (not joined or any(data[last : member.offset])):
                    return False
                last = member.offset_data + -(-member.size // 512) * 512
    except tarfile.TarError:
        return False
    return not any(data[last:]) and len(data) - last < 1024 + 10240


def damage(path: Path, kind: str, rng: random.Random) -> None:
    """Do to a shard what disks, copies and people do."""
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.randrange(1, 30_000))
    if kind == "gone":
        path.unlink()
        return
    if kind == "other":  # another set's shard under this name
        tars.shards(path.parent / "other", [rng.randint(5, 60)], manifest=False)
        (path.parent / "other" / "00000.tar").replace(path)
        return
    if kind == "cut":
        del data[start:]
    elif kind == "empty":
        data.clear()
    elif kind == "swapped":  # two blocks that changed places
        at = rng.randrange(len(data) // 512) * 512
        data[:512], data[at : at + 512] = data[at : at + 512], data[:512]
    else:
        data[start:stop] = bytes(stop - start) if kind == "zeros" else rng.randbytes(stop - start)
    path.write_bytes(data)
