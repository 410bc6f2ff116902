"""Tars as img2dataset writes them, or any others of the same kind, to be filtered and cut anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from data_pipelines.remote.fetch import Unreadable as Lost
from data_pipelines.sample import IMAGE_FORMATS, Sample
from data_pipelines.shards.open_shards import Access, OpenShards, RawSample
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources import Source, Unreadable, as_stored, safe_key
from data_pipelines.sources.folder import captions_of


@dataclass(frozen=True)
class Img2Dataset(Source):
    """Samples of existing shards: key.jpg, key.txt and key.json; what img2dataset says of each is kept."""

    path: str
    """folder, glob, brace range or URL of tars; several joined by `::`"""
    language: str = "en"
    """language of the captions that do not say it"""

    def items(self, part: str) -> Iterator[Sample | Unreadable]:
        """The samples in the order of the tars. Raises UserError if there are no tars."""
        shards = ShardSet.open(self.path)
        shelf = OpenShards(shards, Access())
        for row, url in enumerate(shards.urls):
            try:
                shard = shelf[row]
                for reason, count in sorted(shard.index.lost.items()):
                    yield from (Unreadable(reason, url) for _ in range(count))
                for position in range(len(shard)):
                    yield self._item(shard.sample(position), url)
            except Lost as error:
                yield Unreadable("unreadable shard", f"{url}: {error}")

    def _item(self, raw: RawSample, url: str) -> Sample | Unreadable:
        record = dict(raw.record)
        told = record.pop("txt", "")
        captions = captions_of(record, self.language) or captions_of({"caption": told}, self.language)
        if not captions:
            return Unreadable("missing caption", f"{url}: {raw.key}")
        data, image_format = raw.image, raw.image_format
        if image_format not in IMAGE_FORMATS:
            stored = as_stored(data)
            if stored is None:
                return Unreadable("undecodable picture", f"{url}: {raw.key}")
            data, image_format = stored
        return Sample(safe_key(raw.key), data, image_format, captions, record)
