"""Exponentials of the values of a tile: their sums along both directions, and the softmaxes that those sums give."""

from __future__ import annotations

import torch
from torch import Tensor

from vlp.losses._engine.statistics import Running
from vlp.losses._engine.tile import Exponent

SPREAD = 60.0
"""Logits this far apart still share one exponential: exp(-60) is far above the least normal float32, exp(-87)."""


def raised(kept: Tensor, power: float, *, alone: bool) -> Tensor:
    """power * logit, -inf where it was -inf; `kept` itself may be given back if it is not needed again (`alone`)."""
    if power == 0:
        return torch.where(kept == -torch.inf, -torch.inf, 0.0).to(kept.dtype)
    if power == 1:
        return kept if alone else kept.clone()
    return kept * power


def absorb(exponent: Exponent, which: int, rows: Running, columns: Running) -> None:
    """Adds the sums of exp(value) along the directions that need them; the value is used up."""
    if exponent.mean is None and exponent.way == "both":
        absorb_both(exponent.value, which, rows, columns)
        return
    if exponent.way != "columns":
        last = exponent.way == "rows"
        absorb_rows(exponent if last else exponent._replace(value=exponent.value.clone()), which, rows)
    if exponent.way != "rows":
        mean = None if exponent.mean is None else exponent.mean.T
        absorb_rows(exponent._replace(value=exponent.value.T, mean=mean, way="rows"), which, columns)


def absorb_both(z: Tensor, which: int, rows: Running, columns: Running) -> None:
    """Adds the sums of exp(z) along both directions; z is used up. One exponential serves both if it can."""
    row_peak, column_peak = finite(z.amax(1)), finite(z.amax(0))
    if readable(z):
        top = row_peak.max()
        if float(top - torch.minimum(row_peak.min(), column_peak.min())) < SPREAD:
            z.sub_(top).exp_()
            rows.add(which, top, z.sum(1))
            columns.add(which, top, z.sum(0))
            return
    rows.add(which, row_peak, (z - row_peak[:, None]).exp_().sum(1))
    columns.add(which, column_peak, z.sub_(column_peak[None, :]).exp_().sum(0))


def absorb_rows(exponent: Exponent, which: int, rows: Running) -> None:
    """Adds the sums of exp(value), and those of its mean, along rows that need them; the value is used up."""
    z, _, mean, _, way = exponent
    if way == "columns":
        return
    peak = finite(z.amax(1))
    mass = z.sub_(peak[:, None]).exp_()
    rows.add(which, peak, mass.sum(1), None if mean is None else torch.linalg.vecdot(mass, mean))


def left_out(exponent: Exponent, keep: Tensor | None) -> Exponent:
    """The exponent without the pairs that are not there, where `keep` [r, c] is false."""
    return exponent if keep is None else exponent._replace(value=exponent.value.masked_fill(~keep, -torch.inf))


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


def finite(peak: Tensor) -> Tensor:
    """`peak`, with the most negative finite number in place of -inf: -inf minus -inf has no value."""
    return peak.clamp_min(torch.finfo(peak.dtype).min)


def readable(values: Tensor) -> bool:
    """True where looking at a value costs nothing: not on an accelerator (it would wait), not on simulated tensors."""
    return values.device.type == "cpu" and type(values) is Tensor
