"""The tile engine: value and exact gradient of any objective, without ever having the whole matrix of logits.

Two passes over the tiles. The first keeps a running log-sum-exp for each row and column (one matmul); the derivative
of the loss with respect to those few numbers comes from autograd on vectors; the second pass recomputes each tile,
turns it in place into dL/dlogits and multiplies it into both gradients (three matmuls). Float32 accumulation, or
float64 for float64 features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses._engine.exponents import absorb, absorb_rows, finite, left_out, readable, softmaxes
from vlp.losses._engine.statistics import Running
from vlp.losses._engine.tile import Exponent, Side, Tile, TileForm, Way

EDGE = {"cpu": 512, "cuda": 2048}
"""Side of a tile by kind of device; two tiles are the whole of the logits memory."""


@dataclass(frozen=True)
class Block:
    """The part of the matrix that one process computes: n images against m captions."""

    image: Tensor  # [n, D]
    text: Tensor  # [m, D]
    scale: Tensor  # []
    bias: Tensor | None  # [], None for objectives that are blind to it
    diagonal: tuple[int, int, int] | None  # (row, column, length) of the run of pairs' own logits
    row_ids: Tensor | None = None  # [n]
    column_ids: Tensor | None = None  # [m]
    row_marks: Tensor | None = None  # [n, M]
    column_marks: Tensor | None = None  # [m, M]
    row_guide: Tensor | None = None  # [n, G]
    column_guide: Tensor | None = None  # [m, G]

    @property
    def precision(self) -> torch.dtype:
        """The dtype of logits, statistics and gradients: float32 at least."""
        return torch.promote_types(self.image.dtype, torch.float32)

    def tiles(self) -> Iterator[tuple[slice, slice, Tile]]:
        """Each tile with its rows and columns; it lives in one buffer, so use it up before the next one."""
        edge = EDGE.get(self.image.device.type, 512)
        n, m = len(self.image), len(self.text)
        buffer = self.image.new_empty(min(edge, n) * min(edge, m), dtype=self.precision)
        guides = None if self.row_guide is None else torch.empty_like(buffer)
        alpha = float(self.scale) if readable(self.image) and self.image.dtype == self.precision else None
        for top in range(0, n, edge):
            rows = slice(top, min(top + edge, n))
            image = self.image[rows]
            for left in range(0, m, edge):
                columns = slice(left, min(left + edge, m))
                logits = buffer[: (rows.stop - top) * (columns.stop - left)].view(rows.stop - top, -1)
                if alpha is None:
                    product(image, self.text[columns].T, out=logits)
                    logits.mul_(self.scale)
                else:  # one pass over the tile saved
                    torch.addmm(logits, image, self.text[columns].T, beta=0, alpha=alpha, out=logits)
                if self.bias is not None:
                    logits.add_(self.bias)
                yield rows, columns, self.tile(rows, columns, logits, guides)

    def cut(self, rows: slice, columns: slice) -> Block:
        """Some of its rows and columns, which are all of them or the run of pairs' own logits."""
        if (rows, columns) == (slice(None), slice(None)):
            return self

        def part(values: Tensor | None, where: slice) -> Tensor | None:
            return None if values is None else values[where]

        return replace(
            self,
            image=self.image[rows],
            text=self.text[columns],
            diagonal=(0, 0, len(self.image[rows])),
            row_ids=part(self.row_ids, rows),
            column_ids=part(self.column_ids, columns),
            row_marks=part(self.row_marks, rows),
            column_marks=part(self.column_marks, columns),
            row_guide=part(self.row_guide, rows),
            column_guide=part(self.column_guide, columns),
        )

    def tile(self, rows: slice, columns: slice, logits: Tensor, guides: Tensor | None) -> Tile:
        """A tile whose logits are there, with what travels beside them; `guides` is memory for the teacher's."""
        guide: Tensor | None = None
        if guides is not None and self.row_guide is not None and self.column_guide is not None:
            guide = guides[: logits.numel()].view_as(logits)
            product(self.row_guide[rows], self.column_guide[columns].T, out=guide)

        def cut(values: Tensor | None, where: slice) -> Tensor | None:
            return None if values is None else values[where]

        return Tile(
            logits,
            self.within(rows, columns),
            cut(self.row_ids, rows),
            cut(self.column_ids, columns),
            guide=guide,
            row_marks=cut(self.row_marks, rows),
            column_marks=cut(self.column_marks, columns),
        )

    def of_others(self, where: slice, *, own: bool) -> Block:
        """The same where only the captions `where` of all columns are here; `own`: they are those of my images."""

        def cut(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[where]

        diagonal = (0, 0, len(self.text)) if own else None
        ids, marks = cut(self.column_ids), cut(self.column_marks)
        return replace(self, diagonal=diagonal, column_ids=ids, column_marks=marks)

    def within(self, rows: slice, columns: slice) -> tuple[int, int, int] | None:
        """The part of the diagonal that crosses a tile, in the tile's own coordinates."""
        if self.diagonal is None:
            return None
        row, column, length = self.diagonal
        first = max(0, rows.start - row, columns.start - column)
        last = min(length, rows.stop - row, columns.stop - column)
        return (row + first - rows.start, column + first - columns.start, last - first) if first < last else None


def product(a: Tensor, b: Tensor, *, out: Tensor, add: bool = False) -> None:
    """Writes a @ b to `out` (or adds it), accumulated in out's dtype; GPUs multiply bfloat16 as it is."""
    if a.dtype == b.dtype == out.dtype:
        torch.addmm(out, a, b, out=out) if add else torch.mm(a, b, out=out)
    elif a.is_cuda and torch.bfloat16 in (a.dtype, b.dtype):
        result = torch.mm(a.bfloat16(), b.bfloat16(), out_dtype=out.dtype)
        out.add_(result) if add else out.copy_(result)
    else:
        product(a.to(out.dtype), b.to(out.dtype), out=out, add=add)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> [] of [n, D] each, summed in float64, a tile's rows at a time: a whole product would be as large as a."""
    edge = EDGE.get(a.device.type, 512)
    cuts = [slice(top, top + edge) for top in range(0, len(a), edge)]
    return torch.stack([(a[rows] * b[rows]).sum(1).double().sum() for rows in cuts]).sum()


# Pass 1: statistics --------------------------------------------------------------------------------------------------


def observe(loss: TileForm, block: Block, rows: Running, columns: Running) -> None:
    """Adds a block's logits to the running statistics of its rows and columns (one matmul)."""
    for r, c, tile in block.tiles():
        if tile.diagonal:
            row, column, length = tile.diagonal
            rows.positive[r][row : row + length] = tile.own(tile.logits)
            columns.positive[c][column : column + length] = tile.own(tile.logits)
        for t, (value, _) in enumerate(loss.terms(tile)):
            rows.total[t, r] += value.sum(1)
            columns.total[t, c] += value.sum(0)
        for p, exponent in enumerate(loss.exponents(tile)):
            absorb(exponent, p, rows.cut(r), columns.cut(c))


def observe_local(loss: TileForm, tile: Tile, keep: Tensor | None, rows: Running, *, way: Way = "rows") -> None:
    """Adds the logits of negatives of rows alone, a local tile [b, K], to the statistics of b rows.

    `way` is the direction whose statistics these are.
    """
    tile = replace(tile, logits=tile.logits.clone())
    for t, (value, _) in enumerate(loss.terms(tile)):
        rows.total[t] += (value if keep is None else value * keep).sum(1)
    for p, exponent in enumerate(loss.exponents(tile)):
        if exponent.way in ("both", way):
            absorb_rows(left_out(exponent, keep)._replace(way="rows"), p, rows)


# Between the passes: the derivative with respect to the statistics ---------------------------------------------------


@dataclass(frozen=True)
class Pull:
    """How the loss moves with each statistic of n rows (or columns)."""

    lse: Tensor  # [P, n] the statistic itself, finite
    mean: Tensor  # [M, n] the statistic itself
    on_lse: Tensor  # [P, n] dL/dlse
    on_mean: Tensor  # [M, n] dL/dmean
    on_total: Tensor  # [T, n] dL/dtotal
    on_positive: Tensor  # [n] dL/dpositive

    def cut(self, where: slice) -> Pull:
        """The same for some of the rows."""
        parts = self.lse[:, where], self.mean[:, where], self.on_lse[:, where], self.on_mean[:, where]
        return Pull(*parts, self.on_total[:, where], self.on_positive[where])


def pull(loss: TileForm, side: Side, weights: Tensor) -> tuple[Tensor, Pull]:
    """([n] the loss of each pair in one direction, its derivatives under the sum with `weights` [n])."""
    counts = [len(side.lse), len(side.mean), len(side.total)]

    def parts(numbers: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        ends = list(accumulate(counts))
        return [tuple(numbers[end - count : end]) for count, end in zip(counts, ends, strict=True)]

    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (*side.lse, *side.mean, *side.total, side.positive)]
        lse, mean, total = parts(leaves)
        each = loss.each(replace(side, lse=lse, mean=mean, total=total, positive=leaves[-1]))
        slopes = torch.autograd.grad((weights * each).sum(), leaves, allow_unused=True, materialize_grads=True)
    empty = side.positive.new_zeros(0, len(side.positive))

    def stack(parts: tuple[Tensor, ...]) -> Tensor:
        return torch.stack(parts) if parts else empty

    on_lse, on_mean, on_total = map(stack, parts(slopes))
    return each.detach(), Pull(finite(stack(side.lse)), stack(side.mean), on_lse, on_mean, on_total, slopes[-1])


# Pass 2: gradients ---------------------------------------------------------------------------------------------------


@dataclass
class Sums:
    """What the second pass adds up; image and text are still to be multiplied by the scale."""

    image: Tensor | None  # [n, D] G @ text, None where nobody wants it
    text: Tensor | None  # [m, D] G.T @ image
    bias: Tensor  # [] float64, sum of G
    scale: Tensor  # [] float64, what neither `image` nor `text` brings to the gradient of the scale
    value: Tensor  # [] float64, the loss, for linear objectives

    def cut(self, rows: slice, columns: slice) -> Sums:
        """Those of some rows and columns: what is added to them is added here."""
        image = None if self.image is None else self.image[rows]
        text = None if self.text is None else self.text[columns]
        return Sums(image, text, self.bias, self.scale, self.value)


def differentiate(loss: TileForm, block: Block, rows: Pull, columns: Pull, sums: Sums) -> None:
    """Adds a block's part of the gradient (three matmuls, one of them the recomputed logits)."""
    scratch: Tensor | None = None
    for r, c, tile in block.tiles():
        if scratch is None:
            scratch = torch.empty_like(tile.logits).flatten()
        spare = scratch[: tile.logits.numel()].view_as(tile.logits)
        slope = tile_slope(loss, tile, rows.cut(r), columns.cut(c), spare=spare, sums=sums)
        if sums.image is not None:
            product(slope, block.text[c], out=sums.image[r], add=True)
        if sums.text is not None:
            product(slope.T, block.image[r], out=sums.text[c], add=True)
        if block.bias is not None:
            sums.bias += slope.sum(1).double().sum()


def tile_slope(loss: TileForm, tile: Tile, rows: Pull, columns: Pull, *, spare: Tensor, sums: Sums) -> Tensor:
    """dL/dlogits [r, c] of one tile; uses up the tile's logits and `spare` [r, c]."""
    slope: Tensor | None = None
    for t, (value, derivative) in enumerate(loss.terms(tile)):
        weight = torch.add(rows.on_total[t][:, None], columns.on_total[t][None, :], out=spare)
        if loss.linear:
            sums.value += (weight * value).sum(1).double().sum()
        if derivative is not None:
            slope = weight * derivative if slope is None else slope.addcmul_(weight, derivative)
    for p, exponent in enumerate(loss.exponents(tile)):
        part = exponent_slope(exponent, p, rows, columns, spare=spare)
        if part is not None:
            slope = part if slope is None else slope.add_(part)
    assert slope is not None, "an objective needs at least one power or term"
    if tile.diagonal:
        row, column, length = tile.diagonal
        tile.own(slope).add_(rows.on_positive[row : row + length] + columns.on_positive[column : column + length])
    return slope


def exponent_slope(exponent: Exponent, p: int, rows: Pull, columns: Pull, *, spare: Tensor) -> Tensor | None:
    """What the p-th exponent adds to dL/dlogits [r, c], or None if that is nothing; uses up its value and `spare`."""
    z, slope, mean, mean_slope, way = exponent
    fixed = not isinstance(slope, Tensor) and slope == 0
    if way == "both" and fixed and not isinstance(mean_slope, Tensor):  # only the mean moves, if anything does
        if mean is None or mean_slope == 0:
            return None
        on_row, on_column = mean_slope * rows.on_mean[p], mean_slope * columns.on_mean[p]
        return softmaxes(z, rows.lse[p], on_row, columns.lse[p], on_column, spare=spare)
    if way == "both" and mean is None:
        if isinstance(slope, Tensor):
            both = softmaxes(z, rows.lse[p], rows.on_lse[p], columns.lse[p], columns.on_lse[p], spare=spare)
            return both.mul_(slope)
        on_row, on_column = slope * rows.on_lse[p], slope * columns.on_lse[p]
        return softmaxes(z, rows.lse[p], on_row, columns.lse[p], on_column, spare=spare)
    found: Tensor | None = None
    for name, side in (("columns", columns), ("rows", rows)):
        if way in ("both", name):
            part = pulled(exponent, p, side, across=name == "columns")
            found = part if found is None else found.add_(part)
    return found


def pulled(exponent: Exponent, p: int, side: Pull, *, across: bool) -> Tensor:
    """The p-th exponent's part of dL/dlogits [r, c] through one direction's statistics (`across`: the columns')."""

    def spread(numbers: Tensor) -> Tensor:
        return numbers[None, :] if across else numbers[:, None]

    value, slope, mean, mean_slope, _ = exponent
    probability = (value - spread(side.lse[p])).exp_()
    on_value = spread(side.on_lse[p])
    if mean is None:
        return probability.mul_(on_value).mul_(slope)
    on_mean = spread(side.on_mean[p])
    on_value = (mean - spread(side.mean[p])).mul_(on_mean).add_(on_value)
    return probability.mul_(on_value.mul_(slope).add_(on_mean * mean_slope))


def local_slope(
    loss: TileForm, tile: Tile, keep: Tensor | None, rows: Pull, sums: Sums, *, way: Way = "rows"
) -> Tensor:
    """dL/dlogits [b, K] of negatives of rows alone, a local tile, in the direction `way`."""
    tile = replace(tile, logits=tile.logits.clone())
    slope = torch.zeros_like(tile.logits)
    for t, (value, derivative) in enumerate(loss.terms(tile)):
        weight = rows.on_total[t][:, None] if keep is None else rows.on_total[t][:, None] * keep
        if loss.linear:
            sums.value += (weight * value).double().sum()
        if derivative is not None:
            slope += weight * derivative
    for p, exponent in enumerate(loss.exponents(tile)):
        if exponent.way in ("both", way):
            slope += pulled(left_out(exponent, keep), p, rows, across=False)
    return slope


def local_cosines(e: Embeddings) -> Tensor | None:
    """[b, K] cosines of each image with its own negative captions, or None."""
    if e.negatives is None:
        return None
    precision = e.precision
    return torch.einsum("bd,bkd->bk", e.image.to(precision), e.negatives.to(precision))


def local_logits(e: Embeddings, bias: Tensor | None) -> Tensor | None:
    """[b, K] their logits, or None."""
    cosines = local_cosines(e)
    if cosines is None:
        return None
    return e.scale * cosines if bias is None else e.scale * cosines + bias
