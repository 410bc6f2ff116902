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
from eval.embeddings.cache import EmbeddingCache, identity, name_of_pictures
from eval.embeddings.encode import pixels_of
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
        kept = KeptSplit(data, release.transform, cache_bytes=0, skip_damaged=skip_damaged)
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


class KeptSplit:
    """A dataset, or the shard set of a name, whose pictures are embedded when asked, as often as a model changes.

    cache_bytes: most memory for decoded pictures; those beyond it are decoded again each time. skip_damaged: whether a
    damaged shard is left out and counted. ranks: who embeds; each rank keeps its own pictures only. cache: where
    vectors are looked for before they are computed, and kept after. Raises UserError for a damaged shard, unless
    `skip_damaged`.
    """

    def __init__(
        self,
        data: str | Dataset,
        transform: ImageTransform,
        cache_bytes: int,
        *,
        skip_damaged: bool = False,
        ranks: Ranks | None = None,
        cache: EmbeddingCache | None = None,
    ) -> None:
        self.split = Split(Shards(root=data) if isinstance(data, str) else data)
        self.transform, self.left, self.ranks, self.cache = transform, cache_bytes, ranks or Ranks(), cache
        read = self.split.dataset.read(self.split.skipped, skip_damaged=skip_damaged)
        self.parts = [_Part(place, samples, [sample.key for sample in samples]) for place, samples in read]
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

            def embed(part: _Part) -> _Embedded:
                count = len(part.samples)
                result = self._embedded(part, release, model)
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

    def _embedded(self, part: _Part, release: Release, model: str) -> _Embedded:
        """What the model of this identity sees in a part, from the cache where it has it; "" asks for no cache."""
        if self.cache is None or not model or part.counted:
            return self._computed(part, release)
        name = name_of_pictures(model, part.samples)
        kept = self.cache.get(name)
        if kept is None:
            result = self._computed(part, release)
            rows = _rows(part.keys, result.keys)
            self.cache.put(name, result.image, rows=rows, lost=Ledger.of(result.lost).by_reason())
            return result
        lost = Ledger()
        for reason, count in kept.about["lost"].items():
            lost.drop(reason, part.place, count)
        return _Embedded([part.keys[row] for row in kept.about["rows"]], kept.vectors, lost.state())

    def _computed(self, part: _Part, release: Release) -> _Embedded:
        lost = Ledger()
        pixels = part.pixels if part.pixels is not None else self._decoded(part, lost)
        none = np.empty((0, 0), np.float32)
        image = np.asarray(release.embed_pixels(pixels), np.float32) if len(pixels) else none
        return _Embedded([sample.key for sample in part.samples], image, lost.state())

    def _decoded(self, part: _Part, lost: Ledger) -> Tensor:
        """uint8 [n, 3, H, W] of a part, kept where there is room; encoded pictures that are kept decoded are let go."""
        skip = Ledger() if part.counted else lost
        part.samples, pixels = pixels_of(part.samples, part.place, self.transform, skip)
        part.counted = True
        if pixels.nbytes <= self.left:
            self.left -= pixels.nbytes
            part.pixels = pixels
            part.samples = [replace(sample, image=b"") for sample in part.samples]
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
