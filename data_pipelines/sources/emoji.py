"""Emoji, icons and clip art with captions in English and Chinese, made of pinned registry packages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from data_pipelines.emoji import corpus, packages, splits
from data_pipelines.sample import Sample
from data_pipelines.sources import Source, Unusable
from vlp.config.bounds import Count, Whole


@dataclass(frozen=True)
class Emoji(Source):
    """Emoji of seven artists, IconPark and Open Clip Art, split so that each test asks a question of its own."""

    incidental: ClassVar[tuple[str, ...]] = ("workers", "cache")

    profile: Literal["bundled", "full"] = "bundled"
    """bundled: what may be given on; full: also OpenMoji, Tux Paint and GCompris (share-alike, GPL)"""
    side: Count = 64
    """width and height of the pictures, pixels"""
    workers: Whole = 0
    """processes that render; 0: one for each core"""
    cache: Path | None = None
    """folder of the fetched packages; none: $VLP_CACHE/emoji, else ~/.cache/vlp/emoji"""

    def parts(self) -> tuple[str, ...]:
        """The splits: train, val and the four tests."""
        return splits.SPLITS

    def items(self, part: str) -> Iterator[Sample | Unusable]:
        """The samples of one split, shuffled by a hash of their keys. Raises UserError if a package cannot be had."""
        yield from self._corpus().splits[part]

    def about(self, part: str) -> dict[str, Any]:
        """What the split asks of a model, the profile, the packages, and what was left out of the corpus as a whole."""
        return {
            "asks": splits.ASKS[part],
            "profile": self.profile,
            "side": self.side,
            "packages": {package.name: package.version for package in corpus.packages_of(self.profile)},
            "left_out_of_the_corpus": dict(sorted(self._corpus().dropped.items())),
        }

    def _corpus(self) -> corpus.Corpus:
        return _assembled(self.profile, self.side, self.workers, self.cache or packages.default_cache())


@lru_cache(maxsize=1)  # six splits are read one after the other; rendering takes minutes
def _assembled(profile: str, side: int, workers: int, cache: Path) -> corpus.Corpus:
    return corpus.assemble(profile=profile, side=side, workers=workers, cache=cache)
