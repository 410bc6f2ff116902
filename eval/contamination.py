"""`vlp eval --against TRAIN`: which test pictures and captions the training set has too, and the metrics without them.

A picture counts as seen where a training picture has nearly its difference hash and mean colour, or where the model
itself gives both nearly the same vector; a caption where a training caption says the same (case, width, spacing and
stops aside). Of a metric, the queries are left out that are of such pictures, or that are such captions; what the
others are compared with stays the same, so the numbers can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.captions import normalised
from data_pipelines.ledger import Ledger
from data_pipelines.picture_hash import ALIKE_BITS, ALIKE_COLOUR, Fingerprint, fingerprint_of
from data_pipelines.sample import Sample
from eval.datasets import Block
from eval.datasets.shards import Shards
from eval.embeddings.cache import CachedRelease, name_of_pictures
from eval.embeddings.encode import pixels_of
from eval.embeddings.split import EmbeddedSplit
from eval.embeddings.together import Ranks
from eval.metrics.bootstrap import bootstrap
from eval.metrics.per_class import mean_per_class
from eval.metrics.ranking import SCORES_IN_MEMORY
from eval.picture_hashes import Hashes
from eval.progress_bar import progress_bar
from eval.report.assemble import Part
from eval.tasks import Measured
from vlp.errors import UserError
from vlp.legible import plain
from vlp.pictures import Limits, Refused, decode

Tree = dict[str, Any]


@dataclass(frozen=True)
class Against:
    """What a test is compared with, and how near counts."""

    spec: str
    """the training shards"""
    cosine: float
    """pictures whose vectors have at least this cosine count as the same; 0: vectors are not compared"""
    skip_damaged: bool = False


@dataclass
class Seen:
    """What of one split the training set has."""

    by_hash: dict[int, str] = field(default_factory=dict)  # row of the split -> key of the first training picture
    cosine: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))  # [N] of the nearest one
    nearest: list[str] = field(default_factory=list)  # [N] its key
    captions: set[str] = field(default_factory=set)  # in their normalised form

    def merge(self, other: Seen) -> None:
        """Add what another rank has."""
        self.by_hash = {**other.by_hash, **self.by_hash}
        nearer = other.cosine > self.cosine
        self.nearest = [b if n else a for a, b, n in zip(self.nearest, other.nearest, nearer, strict=True)]
        self.cosine = np.maximum(self.cosine, other.cosine)
        self.captions |= other.captions

    def pictures(self, least: float) -> NDArray[np.bool_]:
        """[N] which pictures count as seen."""
        seen = self.cosine >= least if least else np.zeros(len(self.cosine), bool)
        seen[list(self.by_hash)] = True
        return seen


@dataclass(frozen=True)
class _Test:
    """What of one split is looked for."""

    hashes: Hashes
    image: NDArray[np.float32]  # [N, D]
    captions: frozenset[str]
    seen: Seen


def search(parts: Sequence[Part], against: Against, release: CachedRelease) -> Tree:
    """The tree of `contamination` in report.json (all ranks participate, and get the same).

    The training set is read once, block after block, and never kept. Raises UserError if it cannot be read.
    """
    tests = [_test(part.split, release.ranks, against) for part in parts]
    skipped, lost, count = Ledger(), Ledger(), 0
    train = Shards(root=against.spec)
    with progress_bar(f"comparing with {plain(against.spec, 40)}", None, show=release.ranks.rank == 0) as advance:
        blocks = train.read(skipped, skip_damaged=against.skip_damaged)
        for block in _own(blocks, release.ranks):
            count += len(block[1])
            _compare(tests, block, against, release, lost)
            advance(len(block[1]))
    every = release.ranks.gather(([test.seen for test in tests], count, lost.state()))
    seen = every[0][0]
    for others, _, state in every:
        skipped.merge(Ledger.of(state))
        for one, other in zip(seen, others, strict=True):
            one.merge(other)
    return {
        "against": {
            "spec": against.spec,
            "sha256": train.sha256(),
            "samples": sum(number for _, number, _ in every),
            "skipped": skipped.by_reason(),
        },
        "rule": {"hash_bits": ALIKE_BITS, "colour": ALIKE_COLOUR, "cosine": against.cosine},
        "splits": {p.name: _about(p.split, s, against.cosine) for p, s in zip(parts, seen, strict=True)},
        "without": {
            name: row
            for part, own in zip(parts, seen, strict=True)
            for name, row in _without(part, own, against.cosine).items()
        },
    }


def _own(blocks: Iterator[Block], ranks: Ranks) -> Iterator[Block]:
    """The blocks that this rank compares."""
    return (block for number, block in enumerate(blocks) if number % ranks.size == ranks.rank)


def _test(split: EmbeddedSplit, ranks: Ranks, against: Against) -> _Test:
    """What is looked for of a split; its pictures are read once more, for their hashes (all ranks participate)."""
    own = []
    for place, samples in _own(split.dataset.read(Ledger(), skip_damaged=against.skip_damaged), ranks):
        own.append(_fingerprints(samples, place, Ledger())[1])
    every = ranks.gather(own)
    blocks = [every[i % ranks.size][i // ranks.size] for i in range(sum(map(len, every)))]
    prints = [one for block in blocks for one in block]
    if len(prints) != len(split.samples):
        raise UserError(f"{split.spec} was changed while it was evaluated; evaluate again")
    captions = frozenset(form for sample in split.samples for form in _forms(sample))
    cosine = np.full(len(prints), -1, np.float32)
    return _Test(Hashes.of(prints), split.image, captions, Seen(cosine=cosine, nearest=[""] * len(prints)))


def _fingerprints(samples: Sequence[Sample], place: str, skip: Ledger) -> tuple[list[Sample], list[Fingerprint]]:
    """The samples that can be decoded, with their fingerprints; the others are counted."""
    kept, prints = [], []
    for sample in samples:
        try:
            prints.append(fingerprint_of(decode(sample.image, Limits())))
            kept.append(sample)
        except Refused as error:
            skip.drop(str(error), place)
    return kept, prints


def _forms(sample: Sample) -> Iterator[str]:
    """All captions of a sample, in their normalised form."""
    for language in sample.captions:
        yield from map(normalised, sample.said(language))


def _compare(tests: Sequence[_Test], block: Block, against: Against, release: CachedRelease, lost: Ledger) -> None:
    """Note what of the tests is in a block of training samples; those that cannot be decoded are counted in `lost`."""
    place, samples = block
    kept, prints = _fingerprints(samples, place, lost)
    hashes, keys = Hashes.of(prints), [sample.key for sample in kept]
    vectors = _vectors(kept, place, release) if against.cosine and kept else None
    forms = {form for sample in samples for form in _forms(sample)}
    for test in tests:
        for row, column in sorted(test.hashes.alike(hashes)):
            test.seen.by_hash.setdefault(row, keys[column])
        test.seen.captions |= forms & test.captions
        if vectors is not None:
            step = SCORES_IN_MEMORY // len(vectors)
            for start in range(0, len(test.image), step):
                scores = test.image[start : start + step] @ vectors.T
                best, score = scores.argmax(axis=1), scores.max(axis=1)
                for at in np.flatnonzero(score > test.seen.cosine[start : start + step]):
                    test.seen.nearest[start + at], test.seen.cosine[start + at] = keys[best[at]], score[at]


def _vectors(samples: Sequence[Sample], place: str, release: CachedRelease) -> NDArray[np.float32]:
    """[n, D] of training pictures that can all be decoded, from the cache where it has them."""
    model = release.identity
    name = name_of_pictures(model, samples) if model else ""
    if release.cache is not None and name and (known := release.cache.get(name)) is not None:
        return known.vectors
    vectors = np.asarray(release.embed_pixels(pixels_of(samples, place, release.transform, Ledger())[1]), np.float32)
    if release.cache is not None and name:
        release.cache.put(name, vectors, rows=list(range(len(samples))), lost={})
    return vectors


def _about(split: EmbeddedSplit, seen: Seen, least: float) -> Tree:
    """How much of a split is in the training set, with examples."""
    pictures = seen.pictures(least)
    by_cosine = seen.cosine >= least if least else np.zeros(len(pictures), bool)
    matches = [
        {
            "key": split.keys[row],
            "train": seen.by_hash.get(int(row), seen.nearest[row]),
            "hash": int(row) in seen.by_hash,
            "cosine": round(float(seen.cosine[row]), 4) if least else None,
        }
        for row in np.flatnonzero(pictures)
    ]
    captions = {form for sample in split.samples for form in _forms(sample)}
    return {
        "samples": len(pictures),
        "pictures": int(pictures.sum()),
        "by_hash": len(seen.by_hash),
        "by_cosine": int(by_cosine.sum()) if least else None,
        "captions": len(seen.captions),
        "of_captions": len(captions),
        "matches": matches,
    }


def _without(part: Part, seen: Seen, least: float) -> dict[str, Tree]:
    """Metric -> its value without queries of pictures that were seen, and without captions that were."""
    pictures = {key: bool(flag) for key, flag in zip(part.split.keys, seen.pictures(least), strict=True)}
    of_caption: dict[str, bool] = {}
    for sample, key in zip(part.split.samples, part.split.keys, strict=True):
        for form in _forms(sample):
            of_caption[form] = of_caption.get(form, False) or pictures[key]
    result = {}
    for name, measured in part.measured.items():
        if measured.per_query is None or measured.queries_by is None:
            continue
        forms = [normalised(key) for key in measured.queries_by]
        if all(key in pictures for key in measured.queries_by):
            of_pictures = np.array([pictures[key] for key in measured.queries_by])
            result[name] = {"pictures": _left(measured, ~of_pictures)}
        elif all(form in of_caption for form in forms):
            of_pictures = np.array([of_caption[form] for form in forms])
            captions = np.array([form in seen.captions for form in forms])
            result[name] = {"pictures": _left(measured, ~of_pictures), "captions": _left(measured, ~captions)}
    return result


def _left(measured: Measured, kept: NDArray[np.bool_]) -> Tree:
    """The metric over the queries that are `kept` [Q]; no value where none is."""
    assert measured.per_query is not None
    values, groups = measured.per_query[kept], None if measured.groups is None else measured.groups[kept]
    if not len(values):
        return {"queries": 0, "value": None, "interval": None}
    value = float(values.mean() if groups is None else mean_per_class(values, groups)[0])
    return {
        "queries": len(values),
        "value": round(value, 6),
        "interval": [round(bound, 6) for bound in bootstrap(values, groups)],
    }
