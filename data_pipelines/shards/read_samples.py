"""Every sample of a shard set once, in the order of the tars: for evaluation, embedding and looking."""

from __future__ import annotations

from collections.abc import Iterator

from data_pipelines.ledger import Ledger
from data_pipelines.remote.patience import Changed, Unreadable
from data_pipelines.sample import Sample
from data_pipelines.shards.losses import estimated
from data_pipelines.shards.open_shards import OpenShards
from data_pipelines.shards.shard_set import ShardSet
from vlp.errors import UserError


def read_samples(shards: ShardSet | OpenShards, *, skip: Ledger | None = None) -> Iterator[Sample]:
    """Every sample of `shards` once, in the order of the tars.

    What cannot be read is counted in `skip`; without one it raises UserError, so that nothing is lost unseen.
    """
    opened = shards if isinstance(shards, OpenShards) else OpenShards(shards)
    for row in range(len(opened.urls)):
        yield from read_shard(opened, row, skip=skip)


def read_shard(opened: OpenShards, row: int, *, skip: Ledger | None = None, start: int = 0) -> Iterator[Sample]:
    """The samples of one tar of `opened`, in order; losses as in `read_samples`.

    `start`: so many samples were read before, and what the tar's index says of losses was counted then.
    """
    url, expected, read = opened.urls[row], opened.shards.counts[row], start
    try:
        shard = opened[row]
        for reason, count in ({} if start else estimated([opened.facts(row)])[0]).items():
            _lose(skip, reason, url, count)
        for read in range(start, len(shard)):
            raw = shard.sample(read)
            if skip is not None:
                skip.delivered += 1
            yield Sample.of_record(raw.key, raw.image, raw.image_format, raw.record)
    except Changed as error:
        _lose(skip, "changed shard", f"{url} ({error})", max(1, expected - read))
    except Unreadable as error:
        _lose(skip, "unreadable shard", f"{url} ({error})", max(1, expected - read))


def _lose(skip: Ledger | None, reason: str, shard: str, count: int) -> None:
    if skip is None:
        raise UserError(f"{shard}: {count} samples cannot be delivered ({reason}); check it with `vlp shards verify`")
    skip.drop(reason, shard, count)
