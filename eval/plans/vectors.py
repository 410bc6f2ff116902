"""The vectors of all samples of a stream, on the disk of rank 0; ranks share the work, some samples at a turn."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipelines.captions import choose_several
from data_pipelines.ledger import Ledger
from data_pipelines.loading.epoch_order import mix
from data_pipelines.remote.patience import Changed, Unreadable
from data_pipelines.sample import Sample
from eval.embeddings.encode import Decoding
from eval.embeddings.sound import refuse_broken
from vlp.legible import plain

if TYPE_CHECKING:
    from data_pipelines.shards.open_shards import OpenShards, RawSample
    from data_pipelines.stream import OpenSources
    from vlp.distributed.background import BackgroundGroup
    from vlp.models.release import Release

AT_ONCE = 1024  # samples that a rank embeds at a turn
Kind = Literal["images", "texts"]


class Part(NamedTuple):
    """Samples of one shard that lie side by side."""

    source: int
    shard: int
    start: int
    stop: int
    first: int  # where they begin among those of the source


@dataclass(frozen=True)
class Vectors:
    """Those of one source: what could not be read has none."""

    vectors: dict[str, NDArray[np.float32]]  # [S, D] by kind, in a file
    known: NDArray[np.bool_]  # [S] which samples have vectors


@dataclass(frozen=True)
class Embedding:
    """How the samples of a stream are embedded."""

    release: Release
    kinds: tuple[Kind, ...]
    paths: dict[str, float]  # of captions, as training draws from them: one of each sample is embedded, always the same
    sources: OpenSources

    def all(self, group: BackgroundGroup, folder: Path) -> list[Vectors]:
        """The vectors of each source, in `folder`, on rank 0; elsewhere nothing (all ranks participate).

        Memory: what all ranks embed at a turn. Raises UserError for vectors that are not finite.
        """
        parts = list(self.parts())
        every = self._room(folder) if group.rank == 0 else []
        for turn in range(-(-len(parts) // group.size)):
            own = turn * group.size + group.rank
            made = self.embedded(parts[own]) if own < len(parts) else None
            for part, rows, vectors in filter(None, group.at_rank_0(made)):
                every[part.source].known[rows] = True
                for kind, some in vectors.items():
                    every[part.source].vectors[kind][rows] = some
        return every

    def parts(self) -> Iterator[Part]:
        """All samples, some at a time."""
        for source, order in enumerate(self.sources.order):
            begins = np.cumsum(order.counts) - order.counts
            for shard, count in enumerate(order.counts.tolist()):
                for start in range(0, count, AT_ONCE):
                    stop = min(start + AT_ONCE, count)
                    yield Part(source, shard, start, stop, int(begins[shard]) + start)

    def embedded(self, part: Part) -> tuple[Part, NDArray[np.int64], dict[str, NDArray[np.float32]]]:
        """(the part, numbers [n] of its samples that have vectors, these [n, D] by kind)."""
        shards = self.sources.shards[part.source]
        read = [(at, raw) for at, raw in _read(shards, part) if self._said(part, at, raw)]
        url, vectors = shards.urls[part.shard], dict[str, Any]()
        if "images" in self.kinds and read:
            samples = [Sample.of_record(raw.key, raw.image, raw.image_format, raw.record) for _, raw in read]
            decoding = Decoding(samples, self.release.transform)
            reasons = decoding.reasons
            _, pixels = decoding.result(url, Ledger())
            read = [one for one, reason in zip(read, reasons, strict=True) if not reason]
            vectors["images"] = self.release.embed_pixels(pixels) if read else []
        if "texts" in self.kinds and read:
            vectors["texts"] = self.release.embed_texts([self._said(part, at, raw) for at, raw in read])
        made = {kind: np.asarray(some, np.float32) for kind, some in vectors.items() if len(some)}
        for some in made.values():
            refuse_broken(some, self.release.name, lambda row: f"{plain(read[row][1].key)} of {url}")
        return part, np.array([part.first + at - part.start for at, _ in read], np.int64), made

    def _said(self, part: Part, at: int, raw: RawSample) -> str:
        """The caption of a sample that is embedded; "" if it has none."""
        drawn = random.Random(mix(part.source, part.shard, at))
        return next(iter(choose_several(raw.record, self.paths, 1, drawn)), "")

    def _room(self, folder: Path) -> list[Vectors]:
        folder.mkdir(parents=True, exist_ok=True)
        width = self.release.embed_texts([]).shape[1]
        return [
            Vectors(
                {
                    kind: np.lib.format.open_memmap(
                        folder / f"{source}-{kind}.npy", "w+", np.dtype(np.float32), (order.size, width)
                    )
                    for kind in self.kinds
                },
                np.zeros(order.size, bool),
            )
            for source, order in enumerate(self.sources.order)
        ]


def _read(shards: OpenShards, part: Part) -> Sequence[tuple[int, RawSample]]:
    """(place in the shard, sample) of all of a part that can be read: the stream counts what is lost."""
    read = []
    for at in range(part.start, part.stop):
        try:
            if at >= len(shards[part.shard]):
                break
            read.append((at, shards.sample(part.shard, at)))
        except (Unreadable, Changed):
            continue
    return read
