"""Tars as img2dataset writes them, or any others of the same kind, to be filtered and cut anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from data_pipelines.remote.fetch import Unreadable
from data_pipelines.sample import IMAGE_FORMATS, Sample
from data_pipelines.shards.open_shards import OpenShards, RawSample
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources import Source, Unusable, as_stored, sample_of


@dataclass(frozen=True)
class Img2Dataset(Source):
    """Samples of existing shards: key.jpg, key.txt and key.json; what img2dataset says of each is kept."""

    path: str
    """folder, glob, brace range or URL of tars; several joined by `::`"""
    language: str = "en"
    """language of the captions that do not say it"""

    def items(self, part: str) -> Iterator[Sample | Unusable]:
        """The samples in the order of the tars. Raises UserError if there are no tars."""
        shards = ShardSet.open(self.path)
        opened = OpenShards(shards)
        for row, url in enumerate(shards.urls):
            try:
                shard = opened[row]
                for reason, count in sorted(shard.index.lost.items()):
                    yield from (Unusable(reason, url) for _ in range(count))
                for position in range(len(shard)):
                    yield self._item(shard.sample(position), url)
            except Unreadable as error:
                yield Unusable("unreadable shard", f"{url}: {error}")

    def _item(self, raw: RawSample, url: str) -> Sample | Unusable:
        sample = sample_of(raw.record, raw.key, (raw.image, raw.image_format), self.language)
        if sample is None:
            return Unusable("missing caption", f"{url}: {raw.key}")
        if sample.image_format in IMAGE_FORMATS:
            return sample
        stored = as_stored(sample.image)
        if stored is None:
            return Unusable("undecodable picture", f"{url}: {raw.key}")
        return replace(sample, image=stored[0], image_format=stored[1])
