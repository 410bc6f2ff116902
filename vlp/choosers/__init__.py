"""Which pairs of a larger batch are trained on, by what is seen of all of them: one way a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vlp.batch import Embeddings
from vlp.config.bounds import check
from vlp.losses._engine.peers import Peers


@dataclass(frozen=True)
class Chooser:
    """A way to choose. The batch that the stream gives has more pairs than the one that is trained on."""

    component_package: ClassVar[str] = "vlp.choosers"
    needs: ClassVar[tuple[str, ...]] = ()
    """what it cannot do without, as Objective.needs"""

    def __post_init__(self) -> None:
        check(self, "choose")

    @property
    def parts(self) -> int:
        """Equal parts of the candidates that stay whole on one rank."""
        return 1

    def candidates(self, batch: int) -> int:
        """How many pairs all ranks look at, to train on `batch` of them."""
        raise NotImplementedError

    def taught(self, scale: float) -> Chooser:
        """The same, with a teacher of this logit scale; 0: it has none of its own."""
        return self

    def refuse(self, batch: int, ranks: int) -> None:
        """Raise UserError for a batch that it cannot choose, or that ranks cannot share."""

    def choose(self, e: Embeddings, everyone: Peers, *, batch: int, chance: tuple[int, int]) -> Tensor:
        """[b] int64, ascending: the pairs of this rank's `e` that are trained on, `batch` of all ranks together.

        e: of this rank's candidates, with what the teacher says of them if it is needed. chance: (seed, step), what is
        drawn at random follows from. The same pairs are chosen on any number of ranks. All of `everyone` take part.
        """
        raise NotImplementedError
