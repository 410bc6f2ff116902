"""What an objective sees of the B x B logits: one tile at a time, and at the end the sums of each row and column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """A rectangle of logits: some images (rows) against some captions (columns)."""

    logits: Tensor  # [r, c] scale * image @ text.T (+ bias), float32 or float64
    diagonal: tuple[int, int, int] | None = (
        None  # (row, column, length) of the run of pairs' own logits; None: no such run
    )
    row_ids: Tensor | None = None  # [r] int64
    column_ids: Tensor | None = None  # [c] int64
    local: bool = False  # True: columns are negative captions of their own row only, [r, K]

    def own(self, matrix: Tensor) -> Tensor:
        """A view [length] of `matrix` [r, c] where the pairs' own logits lie (empty if none lies here)."""
        row, column, length = self.diagonal or (0, 0, 0)
        return matrix[row : row + length, column : column + length].diagonal()

    def same(self) -> Tensor:
        """Bool [r, c]: True where image and caption share an id."""
        assert self.row_ids is not None
        assert self.column_ids is not None
        return alike(self.row_ids, self.column_ids)


def alike(a: Tensor, b: Tensor) -> Tensor:
    """Bool [r, c]: where ids [r] and [c] are equal, or [r, I] and [c, I] are equal in one of their columns at least."""
    if a.ndim == 1:
        return a[:, None] == b[None, :]
    same = a[:, None, 0] == b[None, :, 0]
    for i in range(1, a.shape[1]):
        same |= a[:, None, i] == b[None, :, i]
    return same


class Term(NamedTuple):
    """A function of the logits that is summed along rows and columns."""

    value: Tensor  # [r, c]
    slope: Tensor | None  # [r, c] its derivative with respect to the logit; None where it is 0


@dataclass(frozen=True)
class Side:
    """All that one direction (image to text, or text to image) knows of n pairs once every tile has been seen."""

    lse: tuple[Tensor, ...]  # one [n] for each of the loss's powers: log sum exp(power * logit) over the denominator
    total: tuple[Tensor, ...]  # one [n] for each of the loss's terms
    positive: Tensor  # [n] the logit of the pair itself
    size: int  # number of pairs each of the n was compared with, itself included


class TileForm(Protocol):
    """What the engine asks of an objective; `vlp.losses.Loss` says what each of them means."""

    uses_bias: ClassVar[bool]
    uses_ids: ClassVar[bool]
    linear: ClassVar[bool]
    least_pairs: ClassVar[int]

    @property
    def powers(self) -> tuple[float, ...]:
        """Each p for which the objective needs log sum exp(p * logit)."""
        ...

    @property
    def term_count(self) -> int:
        """Length of what `terms` returns."""
        ...

    def terms(self, tile: Tile) -> tuple[Term, ...]:
        """Functions of the logits that are summed along rows and columns."""
        ...

    def denominator(self, tile: Tile) -> Tensor:
        """The logits [r, c] of the log-sum-exps, -inf where a pair stays out."""
        ...

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair in one direction."""
        ...


@dataclass(frozen=True)
class Matrix:
    """The whole matrix of logits seen from one side; what a reference is written on."""

    logits: Tensor  # [B, B], rows are the side's own items
    local: Tensor  # [B, K] logits of each row's own negative captions, -inf where there is none; K = 0 if not used
    same: Tensor  # [B, B] bool, True where ids are equal (the identity where there are no ids)

    def positive(self) -> Tensor:
        """[B] the logit of each pair itself."""
        return self.logits.diagonal()

    def own(self) -> Tensor:
        """Bool [B, B]: the identity."""
        return torch.eye(len(self.logits), dtype=torch.bool, device=self.logits.device)

    def log_sum_exp(self, logits: Tensor, power: float = 1.0) -> Tensor:
        """[B] log sum exp(power * logit) over the row of `logits` [B, B] and its local negatives."""
        entries = torch.cat([logits, self.local], dim=1)
        if power == 0:  # exp(0 * logit) counts the entries that are there
            return torch.isfinite(entries).sum(1).to(entries.dtype).log()
        return (power * entries).logsumexp(1)
