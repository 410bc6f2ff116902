"""Word order: two pictures side by side, "X left of Y", against the same two the other way round, in two languages.

They are composed of the pictures of a shard set: two of different things, drawn by one artist. Both orders together are
an item as Winoground has them, and each has the other's captions as its false ones, as caption choice wants them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from annotated_types import Ge

from data_pipelines.sample import Sample
from eval.datasets import SAMPLES_AT_ONCE, Block, Dataset, Protocol
from eval.datasets.shards import Shards
from vlp.config.bounds import Count
from vlp.errors import UserError
from vlp.pictures import Limits, Refused, decode

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger

SIDE = 64  # pixels of each of the two, on a white square of twice as many
LEFT_OF = {"en": "{} left of {}", "zh": "{}在{}的左边"}


@dataclass(frozen=True, kw_only=True)
class WordOrder(Dataset):
    """Pairs of pictures that differ in which thing is on the left."""

    root: str = "bundled:emoji/test_style"
    """shard set whose pictures are put side by side; they need captions in English or Chinese"""
    pairs: Count = 500
    """number of pairs, of two composed pictures each"""
    seed: Annotated[int, Ge(0)] = 0
    """which pictures come together"""
    group_by: str = "artist"
    """metadata field that two pictures must share; empty: any two come together"""
    different: str = "concept"
    """metadata field in which they must differ; their captions must in any case"""

    @property
    def spec(self) -> str:
        """What is composed, of what."""
        return f"word_order of {self.root}"

    @property
    def protocol(self) -> Protocol:
        """The number of composed pictures, and the metric that stands for them."""
        return Protocol(expected=2 * self.pairs, metric="winoground/group_score")

    @property
    def asks(self) -> str:
        """Which is left and which is right."""
        return "which of two things is on the left, when both captions have the same words"

    def missing(self) -> str:
        """Nothing: to open shards that are not there says so."""
        return ""

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """Every pair, X left of Y and then Y left of X. Raises UserError if the shard set has no two that fit."""
        whole = [s for _, some in Shards(root=self.root).blocks(skip, skip_damaged=skip_damaged) for s in some]
        own = [sample for sample in whole if any(sample.said(language) for language in LEFT_OF)]
        some: list[Sample] = []
        for number, (left, right) in enumerate(self._chosen(own)):
            try:
                some += [composed(f"{number:05d}", left, right), composed(f"{number:05d}", right, left, turned=True)]
            except Refused as error:
                skip.drop(str(error), self.root)
            if len(some) >= SAMPLES_AT_ONCE:
                yield self.root, some
                some = []
        if some:
            yield self.root, some

    def _chosen(self, samples: list[Sample]) -> Iterator[tuple[Sample, Sample]]:
        """The pairs, which depend on the seed and the samples alone; none comes twice."""
        rng = np.random.default_rng(self.seed)
        seen: set[frozenset[int]] = set()
        for _ in range(100 * self.pairs):
            if len(seen) == self.pairs:
                return
            first, second = (int(i) for i in rng.integers(0, len(samples), 2)) if samples else (0, 0)
            both = frozenset((first, second))
            if len(both) == 2 and both not in seen and self._fit(samples[first], samples[second]):
                seen.add(both)
                yield samples[first], samples[second]
        if len(seen) < self.pairs:
            raise UserError(
                f'{self.root} has too few pictures with the same "{self.group_by}" and different "{self.different}" '
                f"for {self.pairs} pairs: {len(seen)} came together; ask for fewer by pairs"
            )

    def _fit(self, first: Sample, second: Sample) -> bool:
        one, other = first.metadata, second.metadata
        alike = not self.group_by or (one.get(self.group_by) == other.get(self.group_by) is not None)
        unlike = one.get(self.different) is None or one.get(self.different) != other.get(self.different)
        return alike and unlike and all(first.said(language)[:1] != second.said(language)[:1] for language in LEFT_OF)

    def sha256(self) -> str:
        """Of the shards and of how they are composed."""
        shards = Shards(root=self.root).sha256()
        how = json.dumps([shards, asdict(self), LEFT_OF, SIDE], sort_keys=True)
        return hashlib.sha256(how.encode()).hexdigest() if shards else ""

    def below(self, folder: str) -> Self:
        """The same: shards are where their specification says."""
        return self


def composed(pair: str, left: Sample, right: Sample, *, turned: bool = False) -> Sample:
    """One picture of two, with its captions and the false ones. Raises Refused if one cannot be decoded."""
    from PIL import Image

    ground = Image.new("RGB", (2 * SIDE, 2 * SIDE), "white")
    for place, sample in enumerate((left, right)):
        ground.paste(decode(sample.image, Limits()).resize((SIDE, SIDE)), (place * SIDE, SIDE // 2))
    file = io.BytesIO()
    ground.save(file, "PNG")
    captions, false = {}, {}
    for language, form in LEFT_OF.items():
        names = [sample.said(language)[0] for sample in (left, right) if sample.said(language)]
        if len(names) == 2:
            captions[language], false[language] = form.format(*names), [form.format(*names[::-1])]
    about = {"left": left.key, "right": right.key}
    metadata = {"pair": pair, "negatives": false, **about}
    return Sample(f"{pair}-{'turned' if turned else 'first'}", file.getvalue(), "png", captions, metadata)
