"""Two words of a caption change places (NegCLIP: Yuksekgonul et al., 2210.01936, section 4).

The paper swaps words of one kind, which a tagger names. Here any two words change places that mean something by
themselves: articles, prepositions and the like stay, and so do words with nothing but "and" or a comma between them,
whose order says nothing. Chinese has no spaces: what stands between its particles changes places.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import combinations

from data_pipelines.negatives import Negatives

STAYING = """
a an the this that these those some any each every no not of in on at by to for from with without into onto over under
near behind before after between through and or but nor as than is are was were be been being am has have had do does
did it its there here who which what when where while
"""
LEAST_OF = frozenset(re.findall(r"\w+", STAYING))
"""English words that stay where they are"""
WORD = re.compile(r"[^\W\d_\u3400-\u9fff]+(?:['’-][^\W\d_\u3400-\u9fff]+)*")
PARTICLES = "的地得在和与及或是有着了从向把被给对跟上下里中旁边左右前后、，。：；！？·"
CHINESE = re.compile(rf"(?:(?![{PARTICLES}])[\u3400-\u9fff])+")
EQUAL = re.compile(r"\s*(?:[,，、;/&+]|and|or|和|与|及|或)?\s*(?:and|or)?\s*")
"""What may stand between two things whose order says nothing"""


@dataclass(frozen=True)
class Swap(Negatives):
    """The same words in another order."""

    def one(self, caption: str, rng: random.Random) -> str:
        """The caption with two words, or what stands between Chinese particles, in each other's place."""
        spans = [match.span() for match in WORD.finditer(caption) if match[0].lower() not in LEAST_OF]
        some = [pair for kind in (spans, _chinese(caption)) for pair in combinations(kind, 2)]
        pairs = [(a, b) for a, b in some if _tells(caption, a, b)]
        if not pairs:
            return ""
        (start, stop), (other, end) = rng.choice(pairs)
        first, between, second = caption[start:stop], caption[stop:other], caption[other:end]
        return caption[:start] + second + between + first + caption[end:]


def _chinese(caption: str) -> list[tuple[int, int]]:
    return [match.span() for match in CHINESE.finditer(caption)]


def _tells(caption: str, one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether the order of two parts of a caption says anything."""
    first, second = caption[slice(*one)], caption[slice(*other)]
    between = caption[one[1] : other[0]]
    equal = bool(between.strip()) and EQUAL.fullmatch(between) is not None
    return first.lower() != second.lower() and not equal
