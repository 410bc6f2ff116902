"""What an objective sees of the B x B logits: one tile at a time, and at the end the sums of each row and column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

Way: TypeAlias = Literal["rows", "columns"]
"""From images to captions (each row of the matrix is one pair's), or from captions to images"""


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
    bank: bool = False  # True: columns are earlier items of the other side, negatives of every row; `local` too
    guide: Tensor | None = None  # [r, c] guide_image @ guide_text.T, may be written in place; None of local tiles
    row_marks: Tensor | None = None  # [r, M]
    column_marks: Tensor | None = None  # [c, M], None of local tiles

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


class Exponent(NamedTuple):
    """A function of the logits whose log-sum-exp along rows and columns is needed, and a mean under its softmax."""

    value: Tensor  # [r, c], -inf where a pair stays out; used up by the engine, and may be the tile's logits themselves
    slope: float | Tensor = 1.0  # [r, c] or one number: the derivative of `value` with respect to the logit
    mean: Tensor | None = None  # [r, c] finite numbers whose mean with weights exp(value) is needed
    mean_slope: float | Tensor = 0.0  # [r, c] or one number: the derivative of `mean` with respect to the logit
    way: Literal["both", "rows", "columns"] = "both"  # the directions that need it; a Side of the other has -inf


@dataclass(frozen=True)
class Side:
    """All that one direction (image to text, or text to image) knows of n pairs once every tile has been seen."""

    lse: tuple[Tensor, ...]  # one [n] for each of the loss's exponents
    total: tuple[Tensor, ...]  # one [n] for each of the loss's terms
    positive: Tensor  # [n] the logit of the pair itself
    size: int  # number of pairs each of the n was compared with, itself included
    mean: tuple[Tensor, ...] = ()  # one [n] for each exponent that has a mean, 0 where there is nothing to average
    marks: Tensor | None = None  # [n, M] without gradient
    way: Way = "rows"  # which direction this is

    def cut(self, where: slice) -> Side:
        """The same for some of the pairs."""
        parts = [tuple(numbers[where] for numbers in group) for group in (self.lse, self.total, self.mean)]
        marks = None if self.marks is None else self.marks[where]
        return Side(parts[0], parts[1], self.positive[where], self.size, parts[2], marks, self.way)


class TileForm(Protocol):
    """What the engine asks of an objective; `vlp.losses.Loss` says what each of them means."""

    uses_bias: ClassVar[bool]
    uses_ids: ClassVar[bool]
    uses_guide: ClassVar[bool]
    uses_marks: ClassVar[bool]
    meets_batch: ClassVar[bool]
    linear: ClassVar[bool]
    least_pairs: ClassVar[int]

    @property
    def exponent_count(self) -> int:
        """How many `exponents` gives."""
        ...

    @property
    def mean_count(self) -> int:
        """How many of them have a mean: the first ones."""
        ...

    @property
    def term_count(self) -> int:
        """Length of what `terms` returns."""
        ...

    def terms(self, tile: Tile) -> tuple[Term, ...]:
        """Functions of the logits that are summed along rows and columns."""
        ...

    def exponents(self, tile: Tile) -> Iterable[Exponent]:
        """Functions of the logits whose log-sum-exps are needed; each is used up before the next one is asked for."""
        ...

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair in one direction."""
        ...


@dataclass(frozen=True)
class Matrix:
    """The whole matrix of logits seen from one side; what a reference is written on."""

    logits: Tensor  # [B, B], rows are the side's own items
    local: Tensor  # [B, K + Q] logits of each row's own negative captions, -inf where there is none, then of the bank
    same: Tensor  # [B, B] bool, True where ids are equal (the identity where there are no ids)
    guide: Tensor | None = None  # [B, B] what a teacher says of the same pairs
    marks: Tensor | None = None  # [B, M] of the rows, which are those of the columns too
    way: Way = "rows"  # rows: the side's own items are images; columns: captions
    earlier: int = 0  # Q: the last so many of `local` are the bank's
    bank_guide: Tensor | None = None  # [B, Q] what a teacher says of them

    @property
    def bank(self) -> Tensor:
        """[B, Q] the logits of the bank."""
        return self.local[:, self.local.shape[1] - self.earlier :]

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
