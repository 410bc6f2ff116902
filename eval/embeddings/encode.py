"""The pictures of shards as a model sees them, some at a time; what cannot be read is counted."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.progress_bar import progress_bar
from vlp.errors import UserError
from vlp.pictures import Limits, Refused, decode

if TYPE_CHECKING:
    from PIL.Image import Image

    from data_pipelines.ledger import Ledger
    from data_pipelines.sample import Sample
    from data_pipelines.shards.shard_set import ShardSet
    from vlp.models.release import Release

PICTURES_AT_ONCE = 256
DAMAGE = ("unreadable shard", "corrupt tar", "truncated tail")
log = logging.getLogger("vlp.eval")


def picture_of(sample: Sample, url: str, skip: Ledger) -> Image | None:
    """The picture of a sample in RGB; or None, counted in `skip` and named in the log, when it cannot be decoded."""
    try:
        return decode(sample.image, Limits())
    except Refused as error:
        skip.drop(str(error), url)
        log.warning("skipped %s of %s: %s", sample.key, url, error)
        return None


class Embedded(NamedTuple):
    """Some samples of one shard, with the vectors of their pictures."""

    url: str
    samples: list[Sample]
    image: NDArray[np.float32]  # [n, D], unit norm


def embedded_pictures(
    release: Release, shards: ShardSet, skip: Ledger, *, what: str = "embedding pictures", bar: bool = True
) -> Iterator[Embedded]:
    """All samples, some at a time, with the vectors of their pictures.

    Single samples that cannot be read are left out and counted in `skip`. Raises UserError for a shard that is damaged
    or cut short: numbers over an unknown part of the data would mean nothing.
    """
    from data_pipelines.stream import read_samples

    total = sum(shards.counts) if min(shards.counts) >= 0 else None
    with progress_bar(what, total, show=bar) as advance:
        for url in shards.urls:
            held: list[tuple[Sample, Image]] = []
            for sample in read_samples(url, skip=skip):
                advance(1)
                picture = picture_of(sample, url, skip)
                if picture is not None:
                    held.append((sample, picture))
                if len(held) == PICTURES_AT_ONCE:
                    yield _embed(release, url, held)
                    held = []
            if held:
                yield _embed(release, url, held)
            _refuse_damage(skip, url)


def _embed(release: Release, url: str, held: list[tuple[Sample, Image]]) -> Embedded:
    samples, pictures = zip(*held, strict=True)
    return Embedded(url, list(samples), np.asarray(release.embed_images(pictures), np.float32))


def _refuse_damage(skip: Ledger, url: str) -> None:
    for reason, shard in skip.drops:
        if reason in DAMAGE and shard.startswith(url):
            raise UserError(f"{shard} cannot be read to its end ({reason}); find out with: vlp shards verify {url}")


def data_sha256(shards: ShardSet) -> str:
    """One sha256 (hex) of all shards in order: of the manifest's checksums, or of the files where it has none.

    Remote shards without a checksum give "": nothing certain is known of them.
    """
    from vlp.models.release import sha256

    digest = hashlib.sha256()
    for url, known in zip(shards.urls, shards.sha256, strict=True):
        if not known and not Path(url).is_file():
            return ""
        digest.update((known or sha256(Path(url))).encode())
    return digest.hexdigest()
