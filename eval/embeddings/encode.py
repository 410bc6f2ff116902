"""The pictures of shards as a model sees them, some at a time; what cannot be read is counted."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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
        _judge_damage(skip, url, skip_damaged=skip_damaged)


def pixels_of(
    samples: Sequence[Sample], url: str, transform: ImageTransform, skip: Ledger
) -> tuple[list[Sample], Tensor]:
    """The samples whose pictures can be decoded, and these as uint8 [n, 3, H, W].

    The others are counted in `skip` and named in the log.
    """
    import torch

    kept: list[Sample] = []
    pixels: list[Tensor] = []
    for sample in samples:
        try:
            pixels.append(transform(decode(sample.image, Limits())))
            kept.append(sample)
        except Refused as error:
            skip.drop(str(error), url)
            log.warning("skipped %s of %s: %s", plain(sample.key), url, error)
    size = transform.size
    return kept, torch.stack(pixels) if pixels else torch.empty((0, 3, size, size), dtype=torch.uint8)


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
        for url, samples in samples_of(shards, skip, skip_damaged=skip_damaged):
            kept, pixels = pixels_of(samples, url, release.transform, skip)
            if kept:
                yield Embedded(url, kept, np.asarray(release.embed_pixels(pixels), np.float32))
            advance(len(samples))


def _judge_damage(skip: Ledger, url: str, *, skip_damaged: bool) -> None:
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
