"""A shard set as one model sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings.encode import embedded_pictures, pixels_of, samples_of
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
    """The samples of a shard set, in the order of its tars."""

    spec: str
    shards: ShardSet
    samples: list[Sample] = field(default_factory=list)
    skipped: Ledger = field(default_factory=Ledger)

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """Every language that captions come in, most frequent first."""
        counts: dict[str, int] = {}
        for sample in self.samples:
            for language in sample.captions:
                counts[language] = counts.get(language, 0) + 1
        return tuple(sorted(counts, key=lambda language: (-counts[language], language)))

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
    """The pictures of a shard set as one model sees them; embedded once, however many tasks ask."""

    release: Release
    image: NDArray[np.float32]  # [N, D], unit norm

    def __init__(self, release: Release, spec: str, *, bar: bool = True, skip_damaged: bool = False) -> None:
        super().__init__(spec, ShardSet.open(spec))
        self.release = release
        parts: list[NDArray[np.float32]] = []
        what = f"embedding {Path(spec).name}"
        embedded = embedded_pictures(release, self.shards, self.skipped, skip_damaged=skip_damaged, what=what, bar=bar)
        for _, samples, vectors in embedded:
            self.samples += samples
            parts.append(vectors)
        self.image = _joined(parts, spec)

    @classmethod
    def of(cls, split: Split, release: Release, parts: list[NDArray[np.float32]]) -> EmbeddedSplit:
        """A split whose pictures are embedded already: `parts` [n, D] hold one vector a sample, in order."""
        made = cls.__new__(cls)
        Split.__init__(made, split.spec, split.shards, split.samples, split.skipped)
        made.release, made.image = release, _joined(parts, split.spec)
        return made


def _joined(parts: list[NDArray[np.float32]], spec: str) -> NDArray[np.float32]:
    if not parts:
        raise UserError(f"{spec} has no readable picture to evaluate; check it with: vlp shards verify {spec}")
    return np.concatenate(parts)


@dataclass
class _Part:
    """Some samples of one shard; their pictures are decoded when first asked for."""

    url: str
    samples: list[Sample]
    pixels: Tensor | None = None  # uint8 [n, 3, H, W], kept from then on
    counted: bool = False  # whether what cannot be decoded is in the ledger


class KeptSplit:
    """A shard set whose samples are read, and whose pictures are embedded when asked, as often as a model changes.

    cache_bytes: most memory for decoded pictures; those beyond it are decoded again each time. skip_damaged: whether a
    damaged shard is left out and counted. Raises UserError if it is not.
    """

    def __init__(self, spec: str, transform: ImageTransform, cache_bytes: int, *, skip_damaged: bool = False) -> None:
        self.split = Split(spec, ShardSet.open(spec))
        self.transform, self.left = transform, cache_bytes
        read = samples_of(self.split.shards, self.split.skipped, skip_damaged=skip_damaged)
        self.parts = [_Part(url, samples) for url, samples in read]
        self.split.samples = [sample for part in self.parts for sample in part.samples]

    def embedded(self, release: Release, *, bar: bool = False) -> EmbeddedSplit:
        """The split as the model of this moment sees it. Raises UserError if no picture can be decoded."""
        vectors = []
        what = f"embedding {Path(self.split.spec).name}"
        with progress_bar(what, sum(len(part.samples) for part in self.parts), show=bar) as advance:
            for part in self.parts:
                count = len(part.samples)
                pixels = part.pixels if part.pixels is not None else self._decoded(part)
                if len(pixels):
                    vectors.append(np.asarray(release.embed_pixels(pixels), np.float32))
                advance(count)
        samples = [sample for part in self.parts for sample in part.samples]
        return EmbeddedSplit.of(replace(self.split, samples=samples), release, vectors)

    def _decoded(self, part: _Part) -> Tensor:
        """uint8 [n, 3, H, W] of a part, kept where there is room; encoded pictures that are kept decoded are let go."""
        skip = self.split.skipped if not part.counted else Ledger()
        part.samples, pixels = pixels_of(part.samples, part.url, self.transform, skip)
        part.counted = True
        if pixels.nbytes <= self.left:
            self.left -= pixels.nbytes
            part.pixels = pixels
            part.samples = [replace(sample, image=b"") for sample in part.samples]
        return pixels
