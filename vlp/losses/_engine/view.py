"""One process's place among its peers in one evaluation: what it gathers, and the arithmetic that schedules share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.errors import UserError
from vlp.losses._engine.banked import Banks
from vlp.losses._engine.peers import ALONE, Peers, Pending
from vlp.losses._engine.statistics import Running
from vlp.losses._engine.tile import Side, Tile, TileForm, Way
from vlp.losses._engine.tile_engine import (
    Block,
    Pull,
    Sums,
    differentiate,
    inner,
    local_cosines,
    local_logits,
    local_slope,
    observe,
    observe_local,
    pull,
)


@dataclass(frozen=True)
class Wanted:
    """Which gradients are asked for."""

    image: bool = False
    text: bool = False
    negatives: bool = False
    numbers: bool = False  # scale or bias, which cost nothing beside one of the others
    dtype: torch.dtype | None = None  # of the gradients of image, text and negatives; None: that of the features

    @property
    def any(self) -> bool:
        """Whether any gradient is wanted."""
        return self.image or self.text or self.negatives or self.numbers


@dataclass(frozen=True)
class LossResult:
    """The global mean loss and `everyone.size` times its gradient, so that the mean over ranks is the gradient."""

    value: Tensor  # []
    image: Tensor | None = None  # [b, D]
    text: Tensor | None = None  # [b, D]
    scale: Tensor | None = None  # []
    bias: Tensor | None = None  # []
    negatives: Tensor | None = None  # [b, K, D]
    rows: Side | None = None  # what my own images know, None for linear losses
    columns: Side | None = None  # what my own captions know


@dataclass(frozen=True)
class View:
    """One process's place among its peers, and the arithmetic that all schedules share."""

    loss: TileForm
    e: Embeddings
    rows: Peers
    columns: Peers
    everyone: Peers
    norm: Tensor  # [] 1 / (2 * the sum of all weights); of one way alone, twice that
    row_weights: Tensor  # [n]
    column_weights: Tensor  # [m]
    row_ids: Tensor | None  # [n]
    column_ids: Tensor | None  # [m]
    row_marks: Tensor | None  # [n, M]
    column_marks: Tensor | None  # [m, M]
    way: Way | None = None  # the only direction that counts; None: both

    @staticmethod
    def of(
        loss: TileForm, e: Embeddings, *, rows: Peers, columns: Peers, everyone: Peers, way: Way | None = None
    ) -> View:
        """Gathers what travels beside the features: weights, ids and marks, where they are used."""
        if not loss.meets_batch:  # only those who ask have to travel
            rows, columns = (ALONE if way == "columns" else rows), (ALONE if way == "rows" else columns)
        b = len(e.image)
        for name in given(loss):
            refuse_without(name, loss, e)
        if b * rows.size * columns.size < loss.least_pairs:
            raise UserError(f"loss {type(loss).__name__} of {b} pair has no negatives; set training.batch higher")
        ones = torch.ones(b, dtype=e.precision, device=e.image.device)

        def gathered(own: Tensor) -> tuple[Tensor, Tensor]:
            pending = columns.gather(own), rows.gather(own)
            return pending[1](), pending[0]()

        if e.weights is None:
            norm = ones.new_tensor(1 / (2 * b * everyone.size))
            weights = ones.new_ones(b * rows.size), ones.new_ones(b * columns.size)
        else:
            own = e.weights.detach().to(ones.dtype)
            norm = 1 / (2 * everyone.sum(own.sum()))
            weights = gathered(own)
        nothing: tuple[Tensor | None, Tensor | None] = (None, None)
        ids = gathered(e.ids) if loss.uses_ids and e.ids is not None else nothing
        marked = loss.uses_marks and e.marks is not None
        marks = gathered(e.marks.detach().to(ones.dtype)) if marked and e.marks is not None else nothing
        norm = norm if way is None else 2 * norm
        return View(loss, e, rows, columns, everyone, norm, *weights, *ids, *marks, way)

    def guides(self, images: Pending, texts: Pending) -> tuple[Tensor, Tensor] | None:
        """What a teacher says of my grid row's images [n, G] and of my grid column's captions [m, G], if it is used.

        What is on its way already, as the images or captions themselves, does not travel again.
        """
        image, text = self.own_guides()
        if image is None or text is None:
            return None
        texts = texts if itself(text, self.e.text) else self.columns.gather(text)
        images = images if itself(image, self.e.image) else self.rows.gather(image)
        return images(), texts()

    def own_guides(self) -> tuple[Tensor | None, Tensor | None]:
        """What a teacher says of my own images and captions [b, G], as it was given, if it is used."""
        image, text = self.e.guide_image, self.e.guide_text
        if not self.loss.uses_guide or image is None or text is None:
            return None, None
        return image.detach(), text.detach()

    @property
    def own_rows(self) -> slice:
        """Where my own images lie among the rows."""
        return slice(self.rows.rank * len(self.e.image), (self.rows.rank + 1) * len(self.e.image))

    @property
    def own_columns(self) -> slice:
        """Where my own captions lie among the columns."""
        return slice(self.columns.rank * len(self.e.text), (self.columns.rank + 1) * len(self.e.text))

    @property
    def size(self) -> int:
        """Number of pairs each pair is compared with, itself included."""
        return len(self.e.image) * self.rows.size * self.columns.size

    @property
    def bias(self) -> Tensor | None:
        """The bias, for objectives that see it."""
        return self.e.bias.detach() if self.loss.uses_bias else None

    @property
    def met(self) -> tuple[slice, slice]:
        """The rows and columns that meet in my block of the matrix: all of them, or my own pairs."""
        return (slice(None), slice(None)) if self.loss.meets_batch else (self.own_rows, self.own_columns)

    def weights(self, way: Way) -> Tensor:
        """[n] (or [m]) what the loss of each pair in a direction counts."""
        weights = self.norm * (self.row_weights if way == "rows" else self.column_weights)
        return weights if self.way in (None, way) else torch.zeros_like(weights)

    def block(self, image: Tensor, text: Tensor, guides: tuple[Tensor, Tensor] | None) -> Block:
        """My block of the matrix: my grid row's images against my grid column's captions."""
        return Block(
            image,
            text,
            self.e.scale.detach(),
            self.bias,
            (self.own_rows.start, self.own_columns.start, len(self.e.image)),
            self.row_ids,
            self.column_ids,
            self.row_marks,
            self.column_marks,
            *(guides or (None, None)),
        )

    def local(self) -> Tile | None:
        """The logits [b, K] of each of my images with its own negative captions, or None."""
        logits = local_logits(self.e, self.bias)
        marks = None if self.row_marks is None else self.row_marks[self.own_rows]
        return None if logits is None else Tile(logits, local=True, row_marks=marks)

    def empty(self, n: int) -> Running:
        """Statistics of n rows of which nothing is known."""
        return Running.empty(n, self.loss, like=self.row_weights)

    def statistics(self, block: Block) -> tuple[Pull, Pull, LossResult]:
        """The first pass: how the loss depends on each row and column; my own pairs' share of the loss, their sides."""
        row_stats, column_stats = self.empty(len(block.image)), self.empty(len(block.text))
        rows, columns = self.met
        observe(self.loss, block.cut(rows, columns), row_stats.cut(rows), column_stats.cut(columns))
        Banks.of(self.e, block).observe(self.loss, row_stats, column_stats)
        return self.settle(row_stats, column_stats)

    def differentiate(self, block: Block, row_pull: Pull, column_pull: Pull, sums: Sums) -> None:
        """The second pass: adds the gradient of the block and of the bank."""
        rows, columns = self.met
        inside = block.cut(rows, columns), row_pull.cut(rows), column_pull.cut(columns), sums.cut(rows, columns)
        differentiate(self.loss, *inside)
        Banks.of(self.e, block).differentiate(self.loss, row_pull, column_pull, sums)

    def settle(self, row_stats: Running, column_stats: Running) -> tuple[Pull, Pull, LossResult]:
        """The same from what this process has seen: rows merge their rows, columns their columns."""
        local = self.local()
        if local is not None:
            observe_local(self.loss, local, self.e.negatives_keep, row_stats.cut(self.own_rows))
        rows = row_stats.merged(self.rows).side(self.size, way="rows", marks=self.row_marks)
        columns = column_stats.merged(self.columns).side(self.size, way="columns", marks=self.column_marks)
        row_each, row_pull = pull(self.loss, rows, self.weights("rows"))
        column_each, column_pull = pull(self.loss, columns, self.weights("columns"))
        own = {"rows": row_each[self.own_rows], "columns": column_each[self.own_columns]}
        each = own["rows"] + own["columns"] if self.way is None else own[self.way]
        value = (self.norm * self.row_weights[self.own_rows] * each).sum()
        seen = LossResult(value, rows=rows.cut(self.own_rows), columns=columns.cut(self.own_columns))
        return row_pull, column_pull, seen

    def linear_pulls(self) -> tuple[Pull, Pull]:
        """The same for a loss that is a plain sum of terms: its derivative is known before any logit is."""

        def known(way: Way, marks: Tensor | None) -> Pull:
            weights = self.weights(way)
            return pull(self.loss, self.empty(len(weights)).side(self.size, way=way, marks=marks), weights)[1]

        return known("rows", self.row_marks), known("columns", self.column_marks)

    def empty_sums(self, block: Block, wanted: Wanted) -> Sums:
        """Zeros to add gradients to. The images' serve the scale's too where nobody wants the captions'."""
        nothing = torch.zeros((), dtype=torch.float64, device=block.image.device)
        image = torch.zeros_like(block.image, dtype=block.precision) if wanted.image or not wanted.text else None
        text = torch.zeros_like(block.text, dtype=block.precision) if wanted.text else None
        return Sums(image, text, nothing, nothing.clone(), nothing.clone())

    def finish(self, sums: Sums, row_pull: Pull, wanted: Wanted, seen: LossResult | None) -> LossResult:
        """The result, from the gradients of my own pairs: `sums.image` and `sums.text` are [b, D].

        `seen` is what the first pass gave, None where a linear loss needs none.
        """
        e, precision = self.e, self.row_weights.dtype
        negatives: Tensor | None = None
        on_negatives: Tensor | float = 0.0
        local, cosines = self.local(), local_cosines(e)
        if e.negatives is not None and local is not None and cosines is not None:
            own = local_slope(self.loss, local, e.negatives_keep, row_pull.cut(self.own_rows), sums)
            if self.loss.uses_bias:
                sums.bias += own.double().sum()
            if wanted.negatives:
                negatives = own[:, :, None] * e.image[:, None].to(precision)
            on_negatives = (own * cosines).double().sum()
            if sums.image is not None:
                sums.image += torch.einsum("bk,bkd->bd", own, e.negatives.to(precision))
        # d/dscale: sum of G_ij (x_i . y_j), which is <G @ text, image>, or <G.T @ image, text> plus the local negatives
        if sums.image is not None:
            scale = inner(sums.image, e.image)
        else:
            assert sums.text is not None
            scale = inner(sums.text, e.text) + on_negatives
        scale = scale + sums.scale
        value = sums.value.to(precision) if seen is None else seen.value
        size = self.everyone.size
        factor = e.scale.detach().to(precision) * size

        def grown(grad: Tensor | None, like: Tensor | None) -> Tensor | None:
            return None if grad is None or like is None else grad.mul_(factor).to(wanted.dtype or like.dtype)

        return LossResult(
            value=self.everyone.sum(value),
            image=grown(sums.image, e.image) if wanted.image else None,
            text=grown(sums.text, e.text),
            scale=(scale * size).to(e.scale.dtype),
            bias=(sums.bias * size).to(e.bias.dtype),
            negatives=grown(negatives, e.negatives),
            rows=None if seen is None else seen.rows,
            columns=None if seen is None else seen.columns,
        )


def itself(a: Tensor | None, b: Tensor) -> bool:
    """Whether two tensors are the same memory."""
    return a is not None and (a.data_ptr(), a.shape, a.dtype) == (b.data_ptr(), b.shape, b.dtype)


def given(loss: TileForm) -> tuple[str, ...]:
    """The fields of the embeddings that a loss cannot do without."""
    uses = (("ids", loss.uses_ids), ("guide_image", loss.uses_guide), ("guide_text", loss.uses_guide))
    return tuple(name for name, used in (*uses, ("marks", loss.uses_marks)) if used)


def refuse_without(name: str, loss: TileForm, e: Embeddings) -> None:
    """Raises UserError if the embeddings lack what the loss needs."""
    if getattr(e, name) is not None:
        return
    called = type(loss).__name__
    if name == "ids":
        raise UserError(
            f"loss {called} needs an id for each pair and the batch has none; "
            "set data.ids to the field of the .json that holds it, or choose another loss.name"
        )
    if name == "marks":
        raise UserError(f"loss {called} needs numbers of each pair and was given none; choose another loss.name")
    raise UserError(
        f"loss {called} needs a teacher's embeddings of each pair and was given none ({name}); "
        "name a teacher, or choose another loss.name"
    )
