"""One evaluation of an objective, alone or among peers: who gathers what, and which numbers come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlp.batch import Embeddings
from vlp.errors import UserError
from vlp.losses._engine.peers import ALONE, Peers, Pending
from vlp.losses._engine.statistics import Running
from vlp.losses._engine.tile import Side, TileForm
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
class Contrast:
    """The mean of a loss over everybody's pairs, and what one's own pairs know once every tile has been seen."""

    value: Tensor  # [], differentiable
    rows: Side | None = None  # of my own images, detached; None for linear losses and from definitions
    columns: Side | None = None  # of my own captions


Evaluate = Callable[[Embeddings, Wanted], LossResult]


def contrast(loss: TileForm, e: Embeddings) -> Contrast:
    """The loss [] of one process's pairs, differentiable once in image, text, negatives, scale and bias."""
    return differentiable(lambda own, wanted: evaluate(loss, own, wanted), e)


def evaluate(
    loss: TileForm,
    e: Embeddings,
    wanted: Wanted,
    *,
    rows: Peers = ALONE,
    columns: Peers = ALONE,
    everyone: Peers = ALONE,
    texts: Pending | None = None,
) -> LossResult:
    """The loss over all pairs of `everyone`; this process has the images of `rows` meet the captions of `columns`.

    `rows` and `columns` must cross in this process alone (a grid), so that every logit is computed once. All peers take
    part, first `columns`, then `rows`, then `everyone`. `texts` is the columns' gather where it is under way already.
    """
    view = View.of(loss, e, rows=rows, columns=columns, everyone=everyone)
    texts = texts or columns.gather(e.text)
    images = rows.gather(e.image)
    block = view.block(images(), texts())
    if loss.linear and wanted.any:
        row_pull, column_pull, seen = *view.linear_pulls(), None
    else:
        row_pull, column_pull, seen = view.statistics(block)
    if not wanted.any:
        assert seen is not None
        return replace(seen, value=everyone.sum(seen.value))
    sums = view.empty_sums(block, wanted)
    differentiate(loss, block, row_pull, column_pull, sums)
    del block, images, texts  # before gradients are sent, which needs memory of its own
    text = None if sums.text is None else columns.scatter_sum(sums.text)
    image = None if sums.image is None else rows.scatter_sum(sums.image)
    sums = replace(sums, image=image and image(), text=text and text())
    return view.finish(sums, row_pull, wanted, seen)


@dataclass(frozen=True)
class View:
    """One process's place among its peers, and the arithmetic that all schedules share."""

    loss: TileForm
    e: Embeddings
    rows: Peers
    columns: Peers
    everyone: Peers
    norm: Tensor  # [] 1 / (2 * the sum of all weights)
    row_weights: Tensor  # [n]
    column_weights: Tensor  # [m]
    row_ids: Tensor | None  # [n]
    column_ids: Tensor | None  # [m]

    @staticmethod
    def of(loss: TileForm, e: Embeddings, *, rows: Peers, columns: Peers, everyone: Peers) -> View:
        """Gathers what travels beside the features: weights and ids, where they are used."""
        b = len(e.image)
        if loss.uses_ids and e.ids is None:
            raise UserError(
                f"loss {type(loss).__name__} needs an id for each pair and the batch has none; "
                "set data.ids to the field of the .json that holds it, or choose another loss.name"
            )
        if b * rows.size * columns.size < loss.least_pairs:
            raise UserError(f"loss {type(loss).__name__} of {b} pair has no negatives; set training.batch higher")
        ones = torch.ones(b, dtype=torch.promote_types(e.image.dtype, torch.float32), device=e.image.device)
        if e.weights is None:
            norm = ones.new_tensor(1 / (2 * b * everyone.size))
            weights = ones.new_ones(b * rows.size), ones.new_ones(b * columns.size)
        else:
            own = e.weights.detach().to(ones.dtype)
            norm = 1 / (2 * everyone.sum(own.sum()))
            gathered = columns.gather(own), rows.gather(own)
            weights = gathered[1](), gathered[0]()
        ids: tuple[Tensor | None, Tensor | None] = (None, None)
        if loss.uses_ids and e.ids is not None:
            pending = columns.gather(e.ids), rows.gather(e.ids)
            ids = pending[1](), pending[0]()
        return View(loss, e, rows, columns, everyone, norm, *weights, *ids)

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

    def block(self, image: Tensor, text: Tensor) -> Block:
        """My block of the matrix: my grid row's images against my grid column's captions."""
        diagonal = (self.own_rows.start, self.own_columns.start, len(self.e.image))
        return Block(image, text, self.e.scale.detach(), self.bias, diagonal, self.row_ids, self.column_ids)

    def empty(self, n: int) -> Running:
        """Statistics of n rows of which nothing is known."""
        return Running.empty(n, powers=len(self.loss.powers), terms=self.loss.term_count, like=self.row_weights)

    def statistics(self, block: Block) -> tuple[Pull, Pull, LossResult]:
        """The first pass: how the loss depends on each row and column; my own pairs' share of the loss, their sides."""
        row_stats, column_stats = self.empty(len(block.image)), self.empty(len(block.text))
        observe(self.loss, block, row_stats, column_stats)
        return self.settle(row_stats, column_stats)

    def settle(self, row_stats: Running, column_stats: Running) -> tuple[Pull, Pull, LossResult]:
        """The same from what this process has seen: rows merge their rows, columns their columns."""
        local = local_logits(self.e, self.bias)
        if local is not None:
            observe_local(self.loss, local, self.e.negatives_keep, row_stats, self.own_rows)
        row_stats, column_stats = row_stats.merged(self.rows), column_stats.merged(self.columns)
        row_each, row_pull = pull(self.loss, row_stats.side(self.size), self.norm * self.row_weights)
        column_each, column_pull = pull(self.loss, column_stats.side(self.size), self.norm * self.column_weights)
        both = row_each[self.own_rows] + column_each[self.own_columns]
        value = (self.norm * self.row_weights[self.own_rows] * both).sum()
        rows = row_stats.cut(self.own_rows).side(self.size)
        columns = column_stats.cut(self.own_columns).side(self.size)
        return row_pull, column_pull, LossResult(value, rows=rows, columns=columns)

    def linear_pulls(self) -> tuple[Pull, Pull]:
        """The same for a loss that is a plain sum of terms: its derivative is known before any logit is."""
        return tuple(  # type: ignore[return-value]
            pull(self.loss, self.empty(len(weights)).side(self.size), self.norm * weights)[1]
            for weights in (self.row_weights, self.column_weights)
        )

    def empty_sums(self, block: Block, wanted: Wanted) -> Sums:
        """Zeros to add gradients to. The images' serve the scale's too where nobody wants the captions'."""
        nothing = torch.zeros((), dtype=torch.float64, device=block.image.device)
        image = torch.zeros_like(block.image, dtype=block.precision) if wanted.image or not wanted.text else None
        text = torch.zeros_like(block.text, dtype=block.precision) if wanted.text else None
        return Sums(image, text, nothing, nothing.clone())

    def finish(self, sums: Sums, row_pull: Pull, wanted: Wanted, seen: LossResult | None) -> LossResult:
        """The result, from the gradients of my own pairs: `sums.image` and `sums.text` are [b, D].

        `seen` is what the first pass gave, None where a linear loss needs none.
        """
        e, precision = self.e, self.row_weights.dtype
        negatives: Tensor | None = None
        on_negatives: Tensor | float = 0.0
        local, cosines = local_logits(e, self.bias), local_cosines(e)
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


class Known(torch.autograd.Function):
    """A number whose gradient was computed with it: the backward pass has nothing left to wait for, in any order."""

    @staticmethod
    def forward(ctx: Any, run: Evaluate, e: Embeddings, *inputs: Tensor | None) -> Tensor:
        """The value of `run`; keeps its gradient."""
        image, text, scale, bias, negatives = ctx.needs_input_grad[2:]
        with torch.autocast(e.image.device.type, enabled=False):
            result = run(e, Wanted(image, text, negatives, numbers=scale or bias))
        ctx.result = result
        return result.value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient times `upstream`, once."""
        if ctx.result is None:
            raise RuntimeError("the gradient of a contrastive loss was taken already; evaluate the loss again")
        result, ctx.result = ctx.result, None
        grads = (result.image, result.text, result.scale, result.bias, result.negatives)
        needed = ctx.needs_input_grad[2:]
        return (
            None,
            None,
            *(g.mul_(upstream) if n and g is not None else None for g, n in zip(grads, needed, strict=True)),
        )


def differentiable(run: Evaluate, e: Embeddings) -> Contrast:
    """The value of `run`, with its gradient attached where any of the embeddings asks for one, and the sides."""
    inputs = (e.image, e.text, e.scale, e.bias, e.negatives)
    results: list[LossResult] = []

    def noted(own: Embeddings, wanted: Wanted) -> LossResult:
        results.append(run(own, wanted))
        return results[0]

    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        value = Known.apply(noted, e, *inputs)
    else:
        with torch.no_grad(), torch.autocast(e.image.device.type, enabled=False):
            value = noted(e, Wanted()).value
    return Contrast(value, results[0].rows, results[0].columns)
