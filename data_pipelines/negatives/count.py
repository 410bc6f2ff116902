"""A number of a caption becomes another one (Teaching CLIP to Count to Ten: Paiss et al., 2302.12066, section 3.2).

Numbers from two to ten, as the paper counts: one is rarely said of what is counted, and more are rarely counted.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from data_pipelines.negatives import Negatives

WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = tuple(map(str, range(2, 11)))
CHINESE = tuple("二三四五六七八九十")
MEASURES = "个只条张位名辆朵本支座头匹件双对颗块片根把枚盏艘架台间家棵株种群道幅瓶杯盘碗箱袋排圈层滴串点角边月层格块"
"""What stands between a Chinese number and what is counted"""
ENGLISH = re.compile(rf"(?<![\w-])(?:{'|'.join(WORDS)})(?![\w-])", re.IGNORECASE)
FIGURES = re.compile(r"(?<![\w.,:/-])(?:10|[2-9])(?![\w:/%-]|[.,]\d)")
NUMERALS = re.compile(rf"(?<![一二两三四五六七八九十百千万第])[二两三四五六七八九十](?=[{MEASURES}])")
FIGURES_CHINESE = re.compile(rf"(?<![\w.,:/-])(?:10|[2-9])(?=[{MEASURES}])")


@dataclass(frozen=True)
class Count(Negatives):
    """The same things in another number."""

    def one(self, caption: str, rng: random.Random) -> str:
        """The caption with one of its numbers from two to ten replaced by another one."""
        places: list[tuple[int, int, tuple[str, ...], int]] = []  # where it stands, how it is written, which one it is
        for pattern, written in ((ENGLISH, WORDS), (FIGURES, DIGITS), (FIGURES_CHINESE, DIGITS), (NUMERALS, CHINESE)):
            for match in pattern.finditer(caption):
                said = "二" if match[0] == "两" else match[0].lower()
                places.append((*match.span(), written, written.index(said)))
        if not places:
            return ""
        start, stop, written, own = rng.choice(places)
        other = rng.choice([i for i in range(len(written)) if i != own])
        said = "两" if written is CHINESE and not other else written[other]
        return caption[:start] + as_written(caption[start:stop], said) + caption[stop:]


def as_written(before: str, after: str) -> str:
    """`after` with a capital, or in capitals, where `before` has them.

    >>> as_written("Two", "three"), as_written("TWO", "three"), as_written("two", "three")
    ('Three', 'THREE', 'three')
    """
    if len(before) > 1 and before.isupper():
        return after.upper()
    return after.capitalize() if before[:1].isupper() else after
