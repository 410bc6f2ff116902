"""What a run keeps beside its weights for its objective: a bank of pairs, numbers of samples, a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from vlp.batch import Batch, Embeddings


class Companion(Protocol):
    """One thing that goes along with a run. All ranks make the same calls in the same order."""

    @property
    def name(self) -> str:
        """What checkpoints call it."""
        ...

    def beside(self, batch: Batch, e: Embeddings) -> Embeddings:
        """The embeddings of a batch with what the loss is given beside them; called once a step, without a graph."""
        ...

    def taken(self) -> None:
        """Keep what the step brought: it was taken, and the weights have moved. A refused step calls nothing."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All that a checkpoint needs, whole and the same on every rank, whatever their number."""
        ...

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from there, on any number of ranks."""
        ...
