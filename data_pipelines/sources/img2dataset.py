"""Tars as img2dataset writes them, or any others of the same kind, to be filtered and cut anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from data_pipelines.remote.fetch import Unreadable
from data_pipelines.sample import IMAGE_FORMATS, Sample
from data_pipelines.shards.losses import Facts, estimated
from data_pipelines.shards.open_shards import OpenShards, RawSample
from data_pipelines.shards.shard_set import ShardSet, is_remote
from data_pipelines.sources import Source, Unusable, as_stored, described, sample_of
from vlp.errors import UserError


@dataclass(frozen=True)
class Img2Dataset(Source):
    """Samples of existing shards: key.jpg, key.txt and key.json; what img2dataset says of each is kept."""

    keys_repeat: ClassVar[bool] = True

    path: str
    """folder, glob, brace range or URL of tars; several joined by `::`"""
    language: str = "en"
    """language of the captions that do not say it"""

    def items(self, part: str) -> Iterator[Sample | Unusable]:
        """The samples in the order of the tars. Raises UserError if there are no tars."""
        shards = ShardSet.open(self.path)
        opened, facts = OpenShards(shards), dict[int, Facts]()
        for row, url in enumerate(shards.urls):
            try:
                shard = opened[row]
                facts[row] = opened.facts(row)
                for position in range(len(shard)):
                    yield self._item(shard.sample(position), url)
            except Unreadable as error:
                yield from [Unusable("unreadable shard", str(error))] * max(1, shards.counts[row])
        for row, losses in zip(facts, estimated(list(facts.values())), strict=True):  # the average tar is known now
            for reason, count in sorted(losses.items()):
                yield from [Unusable(reason, shards.urls[row])] * count
        if facts and not any(one.samples for one in facts.values()):
            raise UserError(f"none of the shards has a sample: {shards.urls[min(facts)]} {opened[min(facts)].nothing}")

    def inputs(self, part: str) -> str:
        """The tars; unknown where they are remote."""
        urls = ShardSet.open(self.path).urls
        local = [Path(url) for url in urls if not is_remote(url) and Path(url).is_file()]
        return described(local[0].parent, local) if len(local) == len(urls) else ""

    def _item(self, raw: RawSample, url: str) -> Sample | Unusable:
        sample = sample_of(raw.record, raw.key, (raw.image, raw.image_format), self.language)
        if sample is None:
            return Unusable("undecodable caption" if raw.garbled else "missing caption", f"{url}: {raw.key}")
        if sample.image_format in IMAGE_FORMATS:
            return sample
        stored = as_stored(sample.image)
        if stored is None:
            return Unusable("undecodable picture", f"{url}: {raw.key}")
        return replace(sample, image=stored[0], image_format=stored[1])
