"""A shuffle of any number of things that is computed place by place, so that it takes no memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from data_pipelines.loading.epoch_order import mix

ROUNDS = 6


@dataclass(frozen=True)
class Shuffled:
    """A permutation of range(count): a Feistel network over a rectangle around it, walked until inside.

    >>> sorted(Shuffled(5, seed=1).at(place) for place in range(5))
    [0, 1, 2, 3, 4]
    """

    count: int
    seed: int

    def at(self, place: int) -> int:
        """What stands at `place`. Raises IndexError outside of range(count)."""
        if not 0 <= place < self.count:
            raise IndexError(f"place {place} of a shuffle of {self.count}")
        rows = math.isqrt(self.count - 1) + 1
        columns = -(-self.count // rows)
        while True:
            row, column = divmod(place, columns)
            for turn in range(ROUNDS):
                if turn % 2:
                    column = (column + mix(self.seed, turn, row)) % columns
                else:
                    row = (row + mix(self.seed, turn, column)) % rows
            place = row * columns + column
            if place < self.count:
                return place
