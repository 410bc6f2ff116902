"""No wrong captions."""

from __future__ import annotations

import random
from dataclasses import dataclass

from data_pipelines.negatives import Negatives
from vlp.config.bounds import Whole
from vlp.errors import UserError


@dataclass(frozen=True)
class NoNegatives(Negatives):
    """Captions as they are."""

    count: Whole = 0
    """none: choose data.negatives.name"""

    def __post_init__(self) -> None:
        """Raises UserError if some are wanted all the same."""
        if self.count:
            raise UserError(
                f'data.negatives.count is {self.count}, but data.negatives.name is "none": choose how captions are '
                "made wrong, such as swap"
            )

    def one(self, caption: str, rng: random.Random) -> str:
        """None."""
        return ""
