"""Who orders the epochs to come, as the trainer knows them."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn


class Planner(Protocol):
    """Plans epochs of a stream. All ranks make the same calls, and get the same answers."""

    def due(self, stream: Any) -> bool:
        """Whether the next batch of the stream is the first of an epoch that has to be planned."""
        ...

    def plan(self, model: nn.Module, stream: Any) -> None:
        """Plan the next epochs with the model in evaluation mode, and have the stream follow (all ranks take part)."""
        ...
