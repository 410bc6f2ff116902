"""One evaluation of an objective, alone or among peers: who gathers what, and which numbers come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlp.batch import Embeddings
from vlp.losses._engine.peers import ALONE, Peers, Pending
from vlp.losses._engine.tile import Side, TileForm, Way
from vlp.losses._engine.view import LossResult, View, Wanted


@dataclass(frozen=True)
class Contrast:
    """The mean of a loss over everybody's pairs, and what one's own pairs know once every tile has been seen."""

    value: Tensor  # [], differentiable
    rows: Side | None = None  # of my own images, detached; None for linear losses and from definitions
    columns: Side | None = None  # of my own captions


Evaluate = Callable[[Embeddings, Wanted], LossResult]


def contrast(loss: TileForm, e: Embeddings, *, way: Way | None = None) -> Contrast:
    """The loss [] of one process's pairs, differentiable once in image, text, negatives, scale and bias."""
    return differentiable(lambda own, wanted: evaluate(loss, own, wanted, way=way), e)


def evaluate(
    loss: TileForm,
    e: Embeddings,
    wanted: Wanted,
    *,
    rows: Peers = ALONE,
    columns: Peers = ALONE,
    everyone: Peers = ALONE,
    texts: Pending | None = None,
    way: Way | None = None,
) -> LossResult:
    """The loss over all pairs of `everyone`; this process has the images of `rows` meet the captions of `columns`.

    `rows` and `columns` must cross in this process alone (a grid), so that every logit is computed once. All peers take
    part, first `columns`, then `rows`, then `everyone`. `texts` is the columns' gather where it is under way already.
    The parts of the bank that the peers of `rows` have are all earlier captions, those of `columns` all earlier images.
    `way`: the only direction that counts, whose mean is then the loss.
    """
    view = View.of(loss, e, rows=rows, columns=columns, everyone=everyone, way=way)
    rows, columns = view.rows, view.columns
    texts = texts or columns.gather(e.text)
    images = rows.gather(e.image)
    guides = view.guides(images, texts)
    block = view.block(images(), texts(), guides)
    if loss.linear and wanted.any:
        row_pull, column_pull, seen = *view.linear_pulls(), None
    else:
        row_pull, column_pull, seen = view.statistics(block)
    if not wanted.any:
        assert seen is not None
        return replace(seen, value=everyone.sum(seen.value))
    sums = view.empty_sums(block, wanted)
    view.differentiate(block, row_pull, column_pull, sums)
    del block, images, texts, guides  # before gradients are sent, which needs memory of its own
    text = None if sums.text is None else columns.scatter_sum(sums.text)
    image = None if sums.image is None else rows.scatter_sum(sums.image)
    sums = replace(sums, image=image and image(), text=text and text())
    return view.finish(sums, row_pull, wanted, seen)


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
