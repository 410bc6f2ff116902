"""Captions that are nearly those of a picture and yet wrong, one way to make them a file.

A text tower that need not tell them from the true ones looks at words and not at what they say together. They go with
the batch (`Batch.negatives`), are encoded with the captions, and are negatives of their own picture alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from data_pipelines.captions import normalised
from vlp.config.bounds import Whole

TRIES = 4  # draws for each caption that is wanted: one that came before does not count


@dataclass(frozen=True)
class Negatives:
    """How captions are made wrong; a subclass says how one of them is."""

    component_package: ClassVar[str] = "data_pipelines.negatives"

    count: Whole = 1
    """wrong captions of each picture; where fewer can be made, the others are left out of the loss"""

    def of(self, caption: str, rng: random.Random) -> tuple[str, ...]:
        """At most `count` wrong captions, all different; none is the caption itself."""
        seen: set[str] = {normalised(caption)}
        made: list[str] = []
        for _ in range(TRIES * self.count):
            if len(made) == self.count:
                break
            wrong = self.one(caption, rng)
            if not wrong:
                break  # what cannot be made once cannot be made at all
            if normalised(wrong) not in seen:
                seen.add(normalised(wrong))
                made.append(wrong)
        return tuple(made)

    def one(self, caption: str, rng: random.Random) -> str:
        """A wrong caption; "" if this one cannot be made wrong. `rng` is the only source of chance."""
        raise NotImplementedError
