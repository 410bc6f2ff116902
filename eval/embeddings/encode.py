"""The pictures of shards as a model sees them, some at a time; what cannot be read is counted."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from eval.progress_bar import progress_bar
from vlp.errors import UserError
from vlp.files import sha256
from vlp.legible import plain
from vlp.pictures import Limits, Refused, decode

if TYPE_CHECKING:
    from torch import Tensor

    from data_pipelines.ledger import Ledger
    from data_pipelines.sample import Sample
    from data_pipelines.shards.shard_set import ShardSet
    from vlp.models.image_transform import ImageTransform
    from vlp.models.release import Release

PICTURES_AT_ONCE = 256
PICTURES_A_JOB = 8  # decoded by one thread at a turn
DAMAGE = ("unreadable shard", "changed shard", "corrupt tar", "truncated tail", "cut, unknown loss")
log = logging.getLogger("vlp.eval")


def samples_of(shards: ShardSet, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[tuple[str, list[Sample]]]:
    """(url, samples) of every shard, up to 256 samples at a time, not decoded.

    Single samples that cannot be read are left out and counted in `skip`. Raises UserError for a shard that is damaged
    or cut short, unless `skip_damaged`: numbers over an unknown part of the data would mean nothing.
    """
    from data_pipelines.shards.open_shards import OpenShards
    from data_pipelines.shards.read_samples import read_shard

    opened = OpenShards(shards)
    for row, url in enumerate(shards.urls):
        some: list[Sample] = []
        for sample in read_shard(opened, row, skip=skip):
            some.append(sample)
            if len(some) == PICTURES_AT_ONCE:
                yield url, some
                some = []
        if some:
            yield url, some
        refuse_damage(skip, url, skip_damaged=skip_damaged)


class Decoding:
    """The pictures of some samples on their way to pixels, in threads: made, and asked for when they are needed.

    Decoding and resizing let go of Python's lock, so that threads do as much as processes and nothing is copied between
    them; the encoder works on one block while the next is decoded.
    """

    def __init__(self, samples: Sequence[Sample], transform: ImageTransform, *, scaled: bool = False) -> None:
        """`scaled`: large JPEGs may be decoded at 1/2, 1/4 or 1/8, which is faster and changes pixels a little."""
        import torch

        self.samples, size = samples, transform.size
        self._pixels = torch.empty((len(samples), 3, size, size), dtype=torch.uint8)
        some = [slice(start, start + PICTURES_A_JOB) for start in range(0, len(samples), PICTURES_A_JOB)]
        self._jobs = [
            decoders().submit(_decode, samples[rows], transform, self._pixels[rows], scaled=scaled) for rows in some
        ]

    @cached_property
    def reasons(self) -> list[str]:
        """[n] why each picture cannot be decoded, "" if it can; waits until all were tried."""
        return [reason for job in self._jobs for reason in job.result()]

    def result(self, url: str, skip: Ledger) -> tuple[list[Sample], Tensor]:
        """The samples whose pictures can be decoded, and these as uint8 [n, 3, H, W].

        The others are counted in `skip` and named in the log.
        """
        reasons = self.reasons
        rows = [row for row, reason in enumerate(reasons) if not reason]
        for sample, reason in zip(self.samples, reasons, strict=True):
            if reason:
                skip.drop(reason, url)
                log.warning("skipped %s of %s: %s", plain(sample.key), url, reason)
        if len(rows) == len(reasons):
            return list(self.samples), self._pixels
        return [self.samples[row] for row in rows], self._pixels[rows]


def _decode(samples: Sequence[Sample], transform: ImageTransform, out: Tensor, *, scaled: bool) -> list[str]:
    """Write the pictures as the model wants them into `out` [n, 3, H, W]; why each cannot be decoded, "" if it can."""
    reasons, least = [], transform.size if scaled else 0
    for sample, pixels in zip(samples, out, strict=True):
        try:
            pixels.copy_(transform(decode(sample.image, Limits(), least=least)))
            reasons.append("")
        except Refused as error:
            reasons.append(str(error))
    return reasons


@cache
def decoders() -> ThreadPoolExecutor:
    """The threads that decode: as many as there are cores for this process, of which torchrun says its number here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))), "decode")


def pixels_of(
    samples: Sequence[Sample], url: str, transform: ImageTransform, skip: Ledger
) -> tuple[list[Sample], Tensor]:
    """The samples whose pictures can be decoded, and these as uint8 [n, 3, H, W]; the others are counted in `skip`."""
    return Decoding(samples, transform).result(url, skip)


T = TypeVar("T")


def ahead(blocks: Iterable[T], count: int = 1) -> Iterator[T]:
    """The same blocks, each of them given out when the `count` after it were made too.

    >>> made = (print("makes", i) or i for i in range(3))
    >>> for block in ahead(made):
    ...     print("uses", block)
    makes 0
    makes 1
    uses 0
    makes 2
    uses 1
    uses 2
    """
    waiting: deque[T] = deque()
    for block in blocks:
        waiting.append(block)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


class Embedded(NamedTuple):
    """Some samples of one shard, with the vectors of their pictures."""

    url: str
    samples: list[Sample]
    image: NDArray[np.float32]  # [n, D], unit norm


def embedded_pictures(
    release: Release,
    shards: ShardSet,
    skip: Ledger,
    *,
    skip_damaged: bool = False,
    what: str = "embedding pictures",
    bar: bool = True,
) -> Iterator[Embedded]:
    """All samples, some at a time, with the vectors of their pictures; what cannot be read is treated as above."""
    total = sum(shards.counts) if min(shards.counts) >= 0 else None
    with progress_bar(what, total, show=bar) as advance:
        read = samples_of(shards, skip, skip_damaged=skip_damaged)
        for url, decoding in ahead((url, Decoding(samples, release.transform)) for url, samples in read):
            kept, pixels = decoding.result(url, skip)
            if kept:
                yield Embedded(url, kept, np.asarray(release.embed_pixels(pixels), np.float32))
            advance(len(decoding.samples))


def refuse_damage(skip: Ledger, url: str, *, skip_damaged: bool) -> None:
    """Raise UserError if the ledger says that a shard is damaged, unless `skip_damaged`: then it is logged."""
    for (reason, shard), count in skip.drops.items():
        if reason in DAMAGE and shard.startswith(url):
            if not skip_damaged:
                raise UserError(
                    f"{shard} cannot be read to its end ({reason}); find out with: vlp shards verify {url}, "
                    "or go on without what is lost: --skip-damaged"
                )
            log.warning("skipped %s samples of %s: %s", f"{count:,}", plain(shard, 500), reason)


def left_out(skip: Ledger) -> str:
    """What was not read, as the end of a sentence; "" if all was."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in skip.by_reason().items())
    return f"; left out: {reasons}" if reasons else ""


def located(spec: str) -> str:
    """The shards of `spec` by a name that means the same in any working folder."""
    return "::".join(
        part if "://" in part or part.startswith("bundled:") else os.path.abspath(Path(part).expanduser())
        for part in (part.strip().removeprefix("file://") for part in spec.split("::"))
    )


def data_sha256(shards: ShardSet) -> str:
    """One sha256 (hex) of all shards in order: of the manifest's checksums, or of the files where it has none.

    Remote shards without a checksum give "": nothing certain is known of them.
    """
    digest = hashlib.sha256()
    for url, known in zip(shards.urls, shards.sha256, strict=True):
        if not known and not Path(url).is_file():
            return ""
        digest.update((known or sha256(Path(url))).encode())
    return digest.hexdigest()
