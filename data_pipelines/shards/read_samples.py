"""Every sample of a shard set once, in the order of the tars: for evaluation, embedding and looking."""

from __future__ import annotations

from collections.abc import Iterator

from data_pipelines.ledger import Ledger
from data_pipelines.remote.patience import Unreadable
from data_pipelines.sample import Sample
from data_pipelines.shards.open_shards import OpenShard, OpenShards
from data_pipelines.shards.shard_set import UNKNOWN, ShardSet
from vlp.errors import UserError


def read_samples(shards: ShardSet | OpenShards, *, skip: Ledger | None = None) -> Iterator[Sample]:
    """Every sample of `shards` once, in the order of the tars.

    What cannot be read is counted in `skip`; without one it raises UserError, so that nothing is lost unseen.
    """
    opened = shards if isinstance(shards, OpenShards) else OpenShards(shards)
    for row in range(len(opened.urls)):
        yield from read_shard(opened, row, skip=skip)


def read_shard(opened: OpenShards, row: int, *, skip: Ledger | None = None) -> Iterator[Sample]:
    """The samples of one tar of `opened`, in order; losses as in `read_samples`."""
    url, expected, read = opened.urls[row], opened.shards.counts[row], 0
    try:
        shard = opened[row]
        for reason, count in losses(shard, expected).items():
            _lose(skip, reason, url, count)
        for read in range(len(shard)):
            raw = shard.sample(read)
            if skip is not None:
                skip.delivered += 1
            yield Sample.of_record(raw.key, raw.image, raw.image_format, raw.record)
    except Unreadable as error:
        _lose(skip, "unreadable shard", f"{url} ({error})", max(1, expected - read))


def losses(shard: OpenShard, expected: int) -> dict[str, int]:
    """reason -> samples that an open shard does not have, although the manifest (`expected`) or its bytes promise them.

    `expected` is UNKNOWN where no manifest counts them.
    """
    lost = dict(shard.index.lost)
    missing = expected - len(shard) - sum(lost.values()) if expected != UNKNOWN else 0
    if missing > 0:
        lost["truncated tail"] = lost.get("truncated tail", 0) + missing
    return lost


def _lose(skip: Ledger | None, reason: str, shard: str, count: int) -> None:
    if skip is None:
        raise UserError(f"{shard}: {count} samples cannot be delivered ({reason}); check it with `vlp shards verify`")
    skip.drop(reason, shard, count)
