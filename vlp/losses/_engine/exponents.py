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
    """Adds the sums of exp(value), and those of its mean, along the directions that need them; uses up the value.

    One exponential serves both directions if it can.
    """
    z, way = exponent.value, exponent.way
    if way == "both" and readable(z):
        row_peak, column_peak = finite(z.amax(1)), finite(z.amax(0))
        top = row_peak.max()
        if float(top - torch.minimum(row_peak.min(), column_peak.min())) < SPREAD:
            z.sub_(top).exp_()
            rows.add(which, top, *sums(z, exponent.mean, 1))
            columns.add(which, top, *sums(z, exponent.mean, 0))
            return
    if way == "both":
        peak = finite(z.amax(1))
        rows.add(which, peak, *sums((z - peak[:, None]).exp_(), exponent.mean, 1))
    elif way == "rows":
        absorb_rows(exponent, which, rows)
    if way != "rows":
        peak = finite(z.amax(0))
        columns.add(which, peak, *sums(z.sub_(peak[None, :]).exp_(), exponent.mean, 0))


def absorb_rows(exponent: Exponent, which: int, rows: Running) -> None:
    """The same along rows alone, if they need it."""
    if exponent.way == "columns":
        return
    peak = finite(exponent.value.amax(1))
    rows.add(which, peak, *sums(exponent.value.sub_(peak[:, None]).exp_(), exponent.mean, 1))


def sums(mass: Tensor, mean: Tensor | None, dim: int) -> tuple[Tensor, Tensor | None]:
    """Along one dimension, the sum of `mass` [r, c] and that of mass * mean."""
    return mass.sum(dim), None if mean is None else (mass * mean).sum(dim)


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
