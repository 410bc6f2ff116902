"""Attribute swaps: a caption against the same one with another skin tone, or with the other sex, in two languages.

The false captions are made from the true ones of a shard set whose samples have a `tone`, as the bundled corpus has in
test_attr. Each kind of swap is a category of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from data_pipelines.attributes import SEXES, TONES
from eval.datasets import Block, Dataset
from eval.datasets.shards import Shards

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger
    from data_pipelines.sample import Sample

VERSION = 1  # of how captions are swapped


def other_tones(caption: str, tone: str) -> list[str]:
    """The caption with each of the other tones, in its own language; none if it does not name its tone once.

    >>> other_tones("hand: light skin tone", "light skin tone")[:2]
    ['hand: medium-light skin tone', 'hand: medium skin tone']
    >>> other_tones("hand: medium-light skin tone", "light skin tone")
    []
    """
    for names in (tuple(TONES), tuple(TONES.values())):
        own = dict(zip(TONES, names, strict=True)).get(tone, "")
        pattern = re.compile(rf"(?<![\w-]){re.escape(own)}" if own.isascii() else re.escape(own))
        if own and len(pattern.findall(caption)) == 1:
            return [pattern.sub(other, caption) for other in names if other != own]
    return []


def other_sex(caption: str, language: str) -> list[str]:
    """The caption with the other sex; none if it names none, or both.

    >>> other_sex("woman judge", "en"), other_sex("男厨师", "zh"), other_sex("couple: woman, man", "en")
    (['man judge'], ['女厨师'], [])
    """
    swap = {word: pair[1 - i] for pair in SEXES.get(language, ()) for i, word in enumerate(pair)}
    pattern = re.compile("|".join(rf"\b{word}\b" if language == "en" else word for word in swap) or r"(?!)")
    sexes = {word in ("man", "men", "男") for word in pattern.findall(caption)}
    return [pattern.sub(lambda match: swap[match[0]], caption)] if len(sexes) == 1 else []


@dataclass(frozen=True, kw_only=True)
class AttributeSwaps(Dataset):
    """Pictures with false captions in which one attribute is another."""

    root: str = "bundled:emoji/test_attr"
    """shard set whose samples have a `tone` and captions in English or Chinese that name it"""

    @property
    def spec(self) -> str:
        """What is swapped, of what."""
        return f"attribute_swaps of {self.root}"

    @property
    def asks(self) -> str:
        """Which attribute it is."""
        return "which skin tone, and which sex, a person has, when the rest of the caption is the same"

    def missing(self) -> str:
        """Nothing: to open shards that are not there says so."""
        return ""

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """The pictures of every tar, once for each attribute that their captions name."""
        for place, samples in Shards(root=self.root).blocks(skip, skip_damaged=skip_damaged):
            some = [one for sample in samples for one in swapped(sample)]
            if some:
                yield place, some

    def sha256(self) -> str:
        """Of the shards and of how their captions are swapped."""
        shards = Shards(root=self.root).sha256()
        return hashlib.sha256(f"attribute_swaps {VERSION} {shards}".encode()).hexdigest() if shards else ""

    def below(self, folder: str) -> Self:
        """The same: shards are where their specification says."""
        return self


def swapped(sample: Sample) -> Iterator[Sample]:
    """The sample with false captions, for each attribute that can be swapped in one of its languages."""
    tone = str(sample.metadata.get("tone") or "")
    swaps = {
        "skin-tone": {language: other_tones(text, tone) for language, text in sample.captions.items()},
        "sex": {language: other_sex(text, language) for language, text in sample.captions.items()},
    }
    for category, false in swaps.items():
        some = {language: texts for language, texts in false.items() if texts}
        if some:
            metadata = {**sample.metadata, "negatives": some, "category": category}
            yield replace(sample, key=f"{sample.key}-{category}", metadata=metadata)
