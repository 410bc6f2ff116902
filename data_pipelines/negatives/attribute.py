"""An attribute of a caption becomes another one of its kind: a colour another colour, a size another size."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from data_pipelines.attributes import FAMILIES
from data_pipelines.negatives import Negatives
from data_pipelines.negatives.count import as_written
from vlp.config import did_you_mean
from vlp.errors import UserError


@dataclass(frozen=True)
class Attribute(Negatives):
    """The same thing with another colour, size, tone of skin, sex, place, state or material."""

    families: tuple[str, ...] = tuple(FAMILIES)
    """which kinds of attributes are changed"""
    words: Mapping[str, str] = field(default_factory=dict)
    """more kinds: a name for each, and words of which only one can be true, with commas between them"""

    def __post_init__(self) -> None:
        """Raises UserError for a family that is not known, and for one with a single word."""
        for name in self.families:
            if name not in FAMILIES:
                raise UserError(f'data.negatives.families has "{name}"{did_you_mean(name, list(FAMILIES))}')
        for name, words in self.words.items():
            if len(set(_split(words))) < 2:
                raise UserError(
                    f'data.negatives.words.{name} is "{words}": give two words or more, with commas between them'
                )

    @cached_property
    def siblings(self) -> dict[str, tuple[str, ...]]:
        """word -> the others of its set; a word of several sets has those of the first one."""
        sets = [
            *(_split(words) for words in self.words.values()),
            *(s for name in self.families for s in FAMILIES[name]),
        ]
        found: dict[str, tuple[str, ...]] = {}
        for words in sets:
            for word in words:
                found.setdefault(word.lower(), tuple(other for other in words if other.lower() != word.lower()))
        return found

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Any of the words, the longest that fits; English ones stand alone."""
        words = sorted(self.siblings, key=lambda word: (-len(word), word))
        forms = [rf"(?<![\w-]){re.escape(w)}(?![\w-])" if w.isascii() else re.escape(w) for w in words]
        return re.compile("|".join(forms) or r"(?!)", re.IGNORECASE)

    def one(self, caption: str, rng: random.Random) -> str:
        """The caption with one of its attributes replaced; the article before it follows."""
        places = list(self.pattern.finditer(caption))
        if not places:
            return ""
        match = rng.choice(places)
        other = as_written(match[0], rng.choice(self.siblings[match[0].lower()]))
        before = re.sub(
            r"\b([Aa])n?(?=\s+$)",
            lambda m: m[1] + ("n" if other[0].lower() in "aeiou" else ""),
            caption[: match.start()],
        )
        return before + other + caption[match.end() :]


def _split(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(",") if word.strip())
