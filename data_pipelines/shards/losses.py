"""How many samples a damaged tar should have had: by its manifest, what lies beside it, its bytes, its neighbours.

A cut tar does not say what it lacks. Its manifest does, the files that img2dataset writes beside a tar
(NNNNN_stats.json, NNNNN.parquet), and an index that was made while it was whole. Where nothing does, the loss is named
as unknown (CUT), and counted as what the tar lacks to the average of its set.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.remote.fetch import read_small
from data_pipelines.shards.shard_set import UNKNOWN, is_remote
from data_pipelines.shards.tar_index import CUT, TarIndex, beside, cached_earlier
from vlp.errors import UserError

Losses = dict[str, int]  # reason -> samples that cannot be delivered


def known(index: TarIndex, expected: int) -> Losses:
    """The losses of a tar that had `expected` samples; UNKNOWN: what its index says, CUT among it."""
    if expected < len(index):
        return dict(index.lost)
    lost = Counter({reason: n for reason, n in index.lost.items() if reason != CUT})
    missing = expected - len(index) - sum(lost.values())
    if missing > 0:
        lost["corrupt tar" if lost["corrupt tar"] and CUT not in index.lost else "truncated tail"] += missing
    elif lost["corrupt tar"]:  # a stretch of damage and the sample that it halved are one sample
        lost["corrupt tar"] = max(0, lost["corrupt tar"] + missing)
    return {reason: n for reason, n in lost.items() if n}


def expected(url: str, index: TarIndex, cache: Path) -> int:
    """How many samples the tar at `url` had when it was whole, by what lies beside it; UNKNOWN if nothing says so.

    Looks at img2dataset's files and at indexes of the tar, beside it or in the folder `cache`, made when it was longer.
    """
    stem = url.removesuffix(".tar")
    for path, count in ((f"{stem}_stats.json", _of_stats), (f"{stem}.parquet", _of_parquet)):
        samples = _read(path, count)
        if samples >= len(index):
            return samples
    earlier = [_earlier(one, index) for one in _indexes(url, cache)]
    return max(earlier, default=UNKNOWN)


@dataclass(frozen=True)
class Facts:
    """What is known of a tar and its losses, small enough to be kept of every tar of a set."""

    samples: int  # that can be read
    lost: Losses  # as `known`
    tar_bytes: int
    used: int  # of them up to the end of the last whole sample
    gap: int  # bytes of damage whose samples nobody counted

    @classmethod
    def of(cls, index: TarIndex, count: int) -> Facts:
        """The facts of a tar that had `count` samples, UNKNOWN where nothing says it."""
        used = int(index.spans.sum(axis=2).max(initial=0))
        return cls(len(index), known(index, count), index.tar_bytes, used, index.gap if count < len(index) else 0)


def estimated(every: Sequence[Facts]) -> list[Losses]:
    """The losses of all tars of a set, unknown ones by the average.

    A cut tar lacks what the average of the whole ones has more, at least 1; a stretch of damage has as many samples as
    its bytes have elsewhere in the set.
    """
    totals = [one.samples + sum(one.lost.values()) for one in every]
    whole = [n for n, one in zip(totals, every, strict=True) if CUT not in one.lost]
    average = sum(whole) / len(whole) if whole else max(totals, default=0)
    samples, size = sum(one.samples for one in every), sum(one.used - one.gap for one in every)
    losses = []
    for one in every:
        lost = dict(one.lost)
        if "corrupt tar" in lost:
            lost["corrupt tar"] = max(lost["corrupt tar"], round(one.gap * samples / max(1, size)))
        if CUT in lost:
            lost[CUT] = max(1, round(average - one.samples - (sum(lost.values()) - lost[CUT])))
        losses.append(lost)
    return losses


def _read(path: str, count: Callable[[bytes], int]) -> int:
    """What `count` finds in the file or object at `path`; UNKNOWN if there is none, or it is something else."""
    with contextlib.suppress(OSError, UserError, ValueError, KeyError, TypeError, ImportError):
        return count(read_small(path) if is_remote(path) else Path(path).read_bytes())
    return UNKNOWN


def _of_stats(data: bytes) -> int:
    return int(json.loads(data)["successes"])


def _of_parquet(data: bytes) -> int:
    import pyarrow.parquet as pq

    file: Any = pq.ParquetFile(io.BytesIO(data))
    if "status" not in file.schema_arrow.names:
        return int(file.metadata.num_rows)
    return sum(status == "success" for status in file.read(["status"])["status"].to_pylist())


def _indexes(url: str, cache: Path) -> Iterator[TarIndex]:
    for path in (*([] if is_remote(url) else [Path(beside(url))]), *cached_earlier(url, cache)):
        with contextlib.suppress(OSError, ValueError):
            yield TarIndex.load(path.read_bytes())


def _earlier(earlier: TarIndex, index: TarIndex) -> int:
    """How many samples there were by an index of the same tar when it was longer; UNKNOWN if it is of another tar."""
    n = len(index)
    same = earlier.tar_bytes > index.tar_bytes and earlier.keys[:n] == index.keys
    if not same or CUT in earlier.lost or not (earlier.spans[: max(0, n - 1)] == index.spans[:-1]).all():
        return UNKNOWN
    return len(earlier) + sum(earlier.lost.values())
