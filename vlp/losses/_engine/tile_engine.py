"""The tile engine: value and exact gradient of any objective, without ever having the whole matrix of logits.

Two passes over the tiles. The first keeps a running log-sum-exp for each row and column (one matmul); the derivative
of the loss with respect to those few numbers comes from autograd on vectors; the second pass recomputes each tile,
turns it in place into dL/dlogits and multiplies it into both gradients (three matmuls). Float32 accumulation, or
float64 for float64 features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses._engine.statistics import Running
from vlp.losses._engine.tile import Side, Tile, TileForm

EDGE = {"cpu": 512, "cuda": 2048}
"""Side of a tile by kind of device; two tiles are the whole of the logits memory."""
SPREAD = 60.0
"""Logits this far apart still share one exponential: exp(-60) is far above the least normal float32, exp(-87)."""


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

    @property
    def precision(self) -> torch.dtype:
        """The dtype of logits, statistics and gradients: float32 at least."""
        return torch.promote_types(self.image.dtype, torch.float32)

    def tiles(self) -> Iterator[tuple[slice, slice, Tile]]:
        """Each tile with its rows and columns; it lives in one buffer, so use it up before the next one."""
        edge = EDGE.get(self.image.device.type, 512)
        n, m = len(self.image), len(self.text)
        buffer = self.image.new_empty(min(edge, n) * min(edge, m), dtype=self.precision)
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
                ids = None if self.row_ids is None else self.row_ids[rows]
                others = None if self.column_ids is None else self.column_ids[columns]
                yield rows, columns, Tile(logits, self.within(rows, columns), ids, others)

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
        kept = loss.denominator(tile)
        for p, power in enumerate(loss.powers):
            absorb(raised(kept, power, alone=len(loss.powers) == 1), p, rows.cut(r), columns.cut(c))


def observe_local(loss: TileForm, logits: Tensor, keep: Tensor | None, rows: Running, where: slice) -> None:
    """Adds the logits [b, K] of each row's own negative captions to the statistics of those rows."""
    tile = Tile(logits.clone(), local=True)
    for t, (value, _) in enumerate(loss.terms(tile)):
        rows.total[t, where] += (value if keep is None else value * keep).sum(1)
    kept = loss.denominator(tile)
    kept = kept if keep is None else kept.masked_fill(~keep, -torch.inf)
    for p, power in enumerate(loss.powers):
        powered = raised(kept, power, alone=False)
        peak = finite(powered.amax(1))
        rows.cut(where).add(p, peak, (powered - peak[:, None]).exp_().sum(1))


def raised(kept: Tensor, power: float, *, alone: bool) -> Tensor:
    """power * logit, -inf where it was -inf; `kept` itself may be given back if it is not needed again (`alone`)."""
    if power == 0:
        return torch.where(kept == -torch.inf, -torch.inf, 0.0).to(kept.dtype)
    if power == 1:
        return kept if alone else kept.clone()
    return kept * power


def absorb(z: Tensor, power: int, rows: Running, columns: Running) -> None:
    """Adds the sums of exp(z) along both directions; z is used up. One exponential serves both if it can."""
    row_peak, column_peak = finite(z.amax(1)), finite(z.amax(0))
    if readable(z):
        top = row_peak.max()
        if float(top - torch.minimum(row_peak.min(), column_peak.min())) < SPREAD:
            z.sub_(top).exp_()
            rows.add(power, top, z.sum(1))
            columns.add(power, top, z.sum(0))
            return
    rows.add(power, row_peak, (z - row_peak[:, None]).exp_().sum(1))
    columns.add(power, column_peak, z.sub_(column_peak[None, :]).exp_().sum(0))


def finite(peak: Tensor) -> Tensor:
    """`peak`, with the most negative finite number in place of -inf: -inf minus -inf has no value."""
    return peak.clamp_min(torch.finfo(peak.dtype).min)


def readable(values: Tensor) -> bool:
    """True where looking at a value costs nothing: not on an accelerator (it would wait), not on simulated tensors."""
    return values.device.type == "cpu" and type(values) is Tensor


# Between the passes: the derivative with respect to the statistics ---------------------------------------------------


@dataclass(frozen=True)
class Pull:
    """How the loss moves with each statistic of n rows (or columns)."""

    lse: Tensor  # [P, n] the statistic itself, finite
    on_lse: Tensor  # [P, n] dL/dlse
    on_total: Tensor  # [T, n] dL/dtotal
    on_positive: Tensor  # [n] dL/dpositive

    def cut(self, where: slice) -> Pull:
        """The same for some of the rows."""
        return Pull(self.lse[:, where], self.on_lse[:, where], self.on_total[:, where], self.on_positive[where])


def pull(loss: TileForm, side: Side, weights: Tensor) -> tuple[Tensor, Pull]:
    """([n] the loss of each pair in one direction, its derivatives under the sum with `weights` [n])."""
    with torch.enable_grad():
        powers, terms = len(side.lse), len(side.total)
        leaves = [t.detach().requires_grad_() for t in (*side.lse, *side.total, side.positive)]
        each = loss.each(Side(tuple(leaves[:powers]), tuple(leaves[powers:-1]), leaves[-1], side.size))
        slopes = torch.autograd.grad((weights * each).sum(), leaves, allow_unused=True, materialize_grads=True)
    empty = side.positive.new_zeros(0, len(side.positive))

    def stack(parts: tuple[Tensor, ...]) -> Tensor:
        return torch.stack(parts) if parts else empty

    return each.detach(), Pull(
        finite(stack(side.lse)), stack(slopes[:powers]), stack(slopes[powers : powers + terms]), slopes[-1]
    )


# Pass 2: gradients ---------------------------------------------------------------------------------------------------


@dataclass
class Sums:
    """What the second pass adds up; image and text are still to be multiplied by the scale."""

    image: Tensor | None  # [n, D] G @ text, None where nobody wants it
    text: Tensor | None  # [m, D] G.T @ image
    bias: Tensor  # [] float64, sum of G
    value: Tensor  # [] float64, the loss, for linear objectives


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
    kept = loss.denominator(tile)
    for p, power in enumerate(loss.powers):
        if power == 0:
            continue
        z = raised(kept, power, alone=len(loss.powers) == 1)
        part = softmaxes(z, rows.lse[p], power * rows.on_lse[p], columns.lse[p], power * columns.on_lse[p], spare=spare)
        slope = part if slope is None else slope.add_(part)
    assert slope is not None, "an objective needs at least one power or term"
    if tile.diagonal:
        row, column, length = tile.diagonal
        tile.own(slope).add_(rows.on_positive[row : row + length] + columns.on_positive[column : column + length])
    return slope


def softmaxes(z: Tensor, row: Tensor, on_row: Tensor, column: Tensor, on_column: Tensor, *, spare: Tensor) -> Tensor:
    """on_row exp(z - row) + on_column exp(z - column) [r, c], in z's memory; uses up `spare`."""
    if readable(z):
        top = torch.minimum(row.max(), column.max())  # no logit lies above the log-sum-exp it is part of
        if float(top - torch.minimum(row.min(), column.min())) < SPREAD:
            z.sub_(top).exp_()
            by_row, by_column = on_row * (top - row).exp_(), on_column * (top - column).exp_()
            return z.mul_(torch.add(by_row[:, None], by_column[None, :], out=spare))
    torch.sub(z, row[:, None], out=spare)
    spare.exp_().mul_(on_row[:, None])
    return z.sub_(column[None, :]).exp_().mul_(on_column[None, :]).add_(spare)


def local_slope(loss: TileForm, logits: Tensor, keep: Tensor | None, rows: Pull, sums: Sums) -> Tensor:
    """dL/dlogits [b, K] of each row's own negative captions."""
    tile = Tile(logits.clone(), local=True)
    slope = torch.zeros_like(logits)
    for t, (value, derivative) in enumerate(loss.terms(tile)):
        weight = rows.on_total[t][:, None] if keep is None else rows.on_total[t][:, None] * keep
        if loss.linear:
            sums.value += (weight * value).double().sum()
        if derivative is not None:
            slope += weight * derivative
    kept = loss.denominator(tile)
    kept = kept if keep is None else kept.masked_fill(~keep, -torch.inf)
    for p, power in enumerate(loss.powers):
        if power:
            slope += power * rows.on_lse[p][:, None] * (power * kept - rows.lse[p][:, None]).exp()
    return slope


def local_cosines(e: Embeddings) -> Tensor | None:
    """[b, K] cosines of each image with its own negative captions, or None."""
    if e.negatives is None:
        return None
    precision = torch.promote_types(e.image.dtype, torch.float32)
    return torch.einsum("bd,bkd->bk", e.image.to(precision), e.negatives.to(precision))


def local_logits(e: Embeddings, bias: Tensor | None) -> Tensor | None:
    """[b, K] their logits, or None."""
    cosines = local_cosines(e)
    if cosines is None:
        return None
    return e.scale * cosines if bias is None else e.scale * cosines + bias
