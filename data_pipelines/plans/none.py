"""No plan: the stream's own order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from data_pipelines.plans import Asks, Plan


@dataclass(frozen=True)
class Unplanned(Plan):
    """Epochs in the order of the stream."""

    asks: ClassVar[Asks] = "nothing"

    def wanted(self, samples: int) -> int:
        """Nothing."""
        return 0
