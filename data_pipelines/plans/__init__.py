"""In which order an epoch gives out its samples, so that those of a batch are hard to tell apart: one way a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from vlp.config.bounds import check

Asks = Literal["nothing", "neighbours", "clusters"]
NOBODY = -1  # in `ids`: no neighbour, no cluster


@dataclass(frozen=True)
class Plan:
    """A way to order an epoch by what is alike; who finds out what is alike is no matter of the plan."""

    component_package: ClassVar[str] = "data_pipelines.plans"
    asks: ClassVar[Asks] = "neighbours"
    """what `plan` is given: the nearest neighbours of each sample, or the cluster that it is in"""

    def __post_init__(self) -> None:
        check(self, "plan.order")

    def wanted(self, samples: int) -> int:
        """How many neighbours of each, or how many clusters of so many samples."""
        raise NotImplementedError

    def plan(self, ids: NDArray[Any], scores: NDArray[Any], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """[S] the samples 0 to S - 1, each once, in the order in which batches of `batch` samples take them.

        ids: [S, K] the neighbours of each sample, nearest first, or [S, 1] its cluster; -1 where there is none. They
        may lie on a disk, and are read a row at a time. scores: [S, K] how alike they are, as cosines.
        """
        raise NotImplementedError


def batches_in_turns(order: NDArray[np.int64], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The same batches in a random order, an incomplete one last: what is planned last has the least choice.

    >>> batches_in_turns(np.arange(7), 3, np.random.default_rng(0)).tolist()
    [3, 4, 5, 0, 1, 2, 6]
    """
    whole = len(order) // batch * batch
    turns = order[:whole].reshape(-1, batch)
    return np.concatenate([rng.permutation(turns).ravel(), order[whole:]])
