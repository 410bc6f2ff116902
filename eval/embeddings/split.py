"""A dataset as one model sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from eval.datasets import Dataset, Protocol
from eval.datasets.shards import Shards
from eval.embeddings.cache import EmbeddingCache, Kept, identity, name_of_pictures
from eval.embeddings.encode import Decoding, ahead
from eval.embeddings.sound import refuse_broken
from eval.embeddings.together import Ranks
from eval.progress_bar import progress_bar
from vlp.errors import UserError
from vlp.legible import plain

if TYPE_CHECKING:
    from torch import Tensor

    from vlp.models.image_transform import ImageTransform
    from vlp.models.release import Release

MOST_NAMED = 20  # fields that a sentence lists


@dataclass
class Split:
    """The samples of a dataset, in its order."""

    dataset: Dataset
    samples: list[Sample] = field(default_factory=list)
    skipped: Ledger = field(default_factory=Ledger)

    @property
    def spec(self) -> str:
        """The dataset in one word."""
        return self.dataset.spec

    @cached_property
    def protocol(self) -> Protocol:
        """How the dataset is measured, as its makers say."""
        return self.dataset.protocol

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """Every language that captions come in, most frequent first."""
        counts: dict[str, int] = {}
        for sample in self.samples:
            for language in sample.captions:
                counts[language] = counts.get(language, 0) + 1
        return tuple(sorted(counts, key=lambda language: (-counts[language], language)))

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """[N] a key of each sample that no other has: its own, and "KEY#2" where one of that key came before."""
        seen: dict[str, int] = {}
        keys = []
        for sample in self.samples:
            seen[sample.key] = seen.get(sample.key, 0) + 1
            keys.append(sample.key if seen[sample.key] == 1 else f"{sample.key}#{seen[sample.key]}")
        return tuple(keys)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Metadata fields that hold one text or number, which may serve as a class."""
        names = {key for s in self.samples for key, value in s.metadata.items() if isinstance(value, str | int)}
        return tuple(plain(name, 60) for name in sorted(names)[:MOST_NAMED])

    @cached_property
    def text_fields(self) -> tuple[str, ...]:
        """Metadata fields that hold texts, by their path in the .json, such as tags.en."""
        names = {path for s in self.samples for path in _texts(s.metadata) if not path.startswith("all_captions.")}
        return tuple(plain(name, 60) for name in sorted(names)[:MOST_NAMED])


def _texts(record: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _texts(value, f"{above}{key}.")
        elif isinstance(value, str) or (isinstance(value, list) and any(isinstance(v, str) for v in value)):
            yield above + key


class EmbeddedSplit(Split):
    """The pictures of a dataset, or of the shard set of this name, as one model sees them.

    They are embedded once, however many tasks ask.
    """

    release: Release
    image: NDArray[np.float32]  # [N, D], unit norm

    def __init__(self, release: Release, data: str | Dataset, *, bar: bool = True, skip_damaged: bool = False) -> None:
        kept = KeptSplit(data, release.transform, cache_bytes=None, skip_damaged=skip_damaged)
        made = kept.embedded(release, bar=bar)
        super().__init__(made.dataset, made.samples, made.skipped)
        self.release, self.image = release, made.image

    @classmethod
    def of(cls, split: Split, release: Release, parts: list[NDArray[np.float32]]) -> EmbeddedSplit:
        """A split whose pictures are embedded already: `parts` [n, D] hold one vector a sample, in order."""
        made = cls.__new__(cls)
        Split.__init__(made, split.dataset, split.samples, split.skipped)
        made.release, made.image = release, _joined(parts, split.dataset)
        made._refuse_broken()
        return made

    def _refuse_broken(self) -> None:
        """Raise UserError if a picture's vector is not finite."""
        refuse_broken(self.image, self.release.name, lambda row: f"{plain(self.samples[row].key)} of {self.spec}")


def _joined(parts: list[NDArray[np.float32]], dataset: Dataset) -> NDArray[np.float32]:
    if not parts:
        check = f"; check it with: vlp shards verify {dataset.spec}" if isinstance(dataset, Shards) else ""
        raise UserError(f"{dataset.spec} has no readable picture to evaluate{check}")
    return np.concatenate(parts)


@dataclass
class _Part:
    """Some samples that lie together; their pictures are decoded when first asked for."""

    place: str
    samples: list[Sample]
    keys: list[str]  # of all that were read
    pixels: Tensor | None = None  # uint8 [n, 3, H, W], kept from then on
    counted: bool = False  # whether it is known what cannot be decoded


class _Embedded(NamedTuple):
    """What the rank that embeds a part gives to all."""

    keys: list[str]  # of the samples that could be decoded
    image: NDArray[np.float32]  # [n, D], unit norm
    lost: dict[str, Any]  # state of the ledger of the others, where they were not yet counted


class _Work(NamedTuple):
    """What is to be done for a part."""

    name: str  # under which the cache keeps its vectors; "" where it does not
    kept: Kept | None  # what the cache has
    decoding: Decoding | None  # its pictures on their way, where they are needed


class KeptSplit:
    """A dataset, or the shard set of a name, whose pictures are embedded when asked, as often as a model changes.

    cache_bytes: most memory for decoded pictures; those beyond it are decoded again each time, from the encoded ones,
    which are kept as well; None keeps none of them, and reads the dataset again. skip_damaged: whether a damaged shard
    is left out and counted. ranks: who embeds; each rank keeps its own pictures only. cache: where vectors are looked
    for before they are computed, and kept after. Raises UserError for a damaged shard, unless `skip_damaged`.
    """

    def __init__(
        self,
        data: str | Dataset,
        transform: ImageTransform,
        cache_bytes: int | None,
        *,
        skip_damaged: bool = False,
        ranks: Ranks | None = None,
        cache: EmbeddingCache | None = None,
    ) -> None:
        self.split = Split(Shards(root=data) if isinstance(data, str) else data)
        self.transform, self.ranks, self.cache = transform, ranks or Ranks(), cache
        self.left, self.keeps, self.skip_damaged = cache_bytes or 0, cache_bytes is not None, skip_damaged
        self.parts: list[_Part] = []
        for place, samples in self.split.dataset.read(self.split.skipped, skip_damaged=skip_damaged):
            bare = [replace(sample, image=b"") for sample in samples]
            self.parts.append(_Part(place, samples if self.keeps else bare, [sample.key for sample in samples]))
        own = set(self.ranks.own(len(self.parts)))
        for number, part in enumerate(self.parts):
            if number not in own:
                part.samples = [replace(sample, image=b"") for sample in part.samples]
        self.split.samples = [sample for part in self.parts for sample in part.samples]

    def embedded(self, release: Release, *, bar: bool = False) -> EmbeddedSplit:
        """The split as the model of this moment sees it (all ranks participate).

        Raises UserError if no picture can be decoded.
        """
        what = f"embedding {PurePath(self.split.spec).name}"
        model = identity(release) if self.cache is not None else ""
        with progress_bar(what, sum(len(part.samples) for part in self.parts), show=bar) as advance:
            work = ahead(self._work(model))

            def embed(part: _Part) -> _Embedded:
                count = len(part.samples)
                result = self._embedded(part, release, next(work))
                advance(count)
                return result

            results = self.ranks.share(self.parts, embed)
        for part, result in zip(self.parts, results, strict=True):
            self.split.skipped.merge(Ledger.of(result.lost))
            if len(result.keys) < len(part.samples):
                kept = set(result.keys)
                part.samples = [sample for sample in part.samples if sample.key in kept]
        samples = [sample for part in self.parts for sample in part.samples]
        vectors = [result.image for result in results if result.keys]
        return EmbeddedSplit.of(replace(self.split, samples=samples), release, vectors)

    def _work(self, model: str) -> Iterator[_Work]:
        """What is to be done for each part of this rank, in its order; their pictures are on their way.

        model: the identity of the model, for the cache; "" asks for none.
        """
        pictures = self._pictures()
        for number in self.ranks.own(len(self.parts)):
            part, samples = self.parts[number], next(pictures)
            cached = self.cache is not None and model and not part.counted
            name = name_of_pictures(model, samples) if cached else ""
            kept = self.cache.get(name) if self.cache is not None and name else None
            decode = kept is None and part.pixels is None
            yield _Work(name, kept, Decoding(samples, self.transform) if decode else None)

    def _pictures(self) -> Iterator[list[Sample]]:
        """The samples of each part of this rank with their pictures, which are read again where they are not kept.

        Raises UserError if the dataset is no longer what it was.
        """
        own = self.ranks.own(len(self.parts))
        if self.keeps:
            yield from (self.parts[number].samples for number in own)
            return
        at, samples = -1, list[Sample]()
        blocks = self.split.dataset.blocks(Ledger(), skip_damaged=self.skip_damaged)
        for number in own:
            while at < number:
                at, (_, samples) = at + 1, next(blocks, ("", []))
            part = self.parts[number]
            if [sample.key for sample in samples] != part.keys:
                raise UserError(f"{self.split.spec} changed while it was evaluated; evaluate it again")
            rows = _rows(part.keys, [sample.key for sample in part.samples])
            yield [samples[row] for row in rows]

    def _embedded(self, part: _Part, release: Release, work: _Work) -> _Embedded:
        """What the model sees in a part: from the cache where it has it, or computed, and then kept there."""
        lost = Ledger()
        if work.kept is not None:
            for reason, count in work.kept.about["lost"].items():
                lost.drop(reason, part.place, count)
            return _Embedded([part.keys[row] for row in work.kept.about["rows"]], work.kept.vectors, lost.state())
        pixels = part.pixels if work.decoding is None else self._decoded(part, work.decoding, lost)
        assert pixels is not None
        none = np.empty((0, 0), np.float32)
        image = np.asarray(release.embed_pixels(pixels), np.float32) if len(pixels) else none
        keys = [sample.key for sample in part.samples]
        if self.cache is not None and work.name:
            self.cache.put(work.name, image, rows=_rows(part.keys, keys), lost=lost.by_reason())
        return _Embedded(keys, image, lost.state())

    def _decoded(self, part: _Part, decoding: Decoding, lost: Ledger) -> Tensor:
        """uint8 [n, 3, H, W] of a part, kept where there is room; encoded pictures that are kept decoded are let go."""
        samples, pixels = decoding.result(part.place, Ledger() if part.counted else lost)
        part.counted = True
        keep = self.keeps and pixels.nbytes <= self.left
        if keep:
            self.left -= pixels.nbytes
            part.pixels = pixels
        part.samples = samples if self.keeps and not keep else [replace(sample, image=b"") for sample in samples]
        return pixels


def _rows(every: list[str], some: list[str]) -> list[int]:
    """The places among `every` of `some`, which are in the same order.

    >>> _rows(["a", "b", "a"], ["b", "a"])
    [1, 2]
    """
    rows, start = [], 0
    for key in some:
        start = every.index(key, start) + 1
        rows.append(start - 1)
    return rows
