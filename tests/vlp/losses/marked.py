"""A loss that asks the engine for everything: marks, exponents of one direction, slopes that are tensors, and means."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from vlp.losses import Exponent, Loss


@dataclass(frozen=True, kw_only=True)
class Marked(Loss):
    """tau lse(s / tau) + mean of s^2 / 90 under that softmax + lse(.3 s + .01 s^2) - s_ii, a temperature tau a pair."""

    uses_marks: ClassVar[bool] = True

    @property
    def exponent_count(self):
        return 3

    @property
    def mean_count(self):
        return 2

    def exponents(self, tile):
        z = tile.logits
        temperature = tile.row_marks[:, :1].square() + 0.5
        rows = Exponent(z / temperature, (1 / temperature).expand_as(z), z.square() / 90, z / 45, "rows")
        if tile.local:
            columns = Exponent(torch.full_like(z, -torch.inf), 0.0, torch.zeros_like(z), way="columns")
        else:
            temperature = tile.column_marks[None, :, 1].square() + 0.5
            columns = Exponent(z / temperature, (1 / temperature).expand_as(z), z.square() / 90, z / 45, "columns")
        yield rows
        yield columns
        yield Exponent(0.3 * z + 0.01 * z.square(), 0.3 + 0.02 * z)

    def each(self, side):
        k = 0 if side.way == "rows" else 1
        temperature = side.marks[:, k].square() + 0.5
        return temperature * side.lse[k] + side.mean[k] + side.lse[2] - side.positive

    def definition(self, matrix):
        there = matrix.local.isfinite()
        local = torch.where(there, matrix.local, 0.0)
        s = torch.cat([matrix.logits, local], 1)
        out = torch.cat([torch.zeros_like(matrix.logits, dtype=torch.bool), ~there], 1)
        temperature = matrix.marks[:, 0 if matrix.way == "rows" else 1, None].square() + 0.5
        sharp = (s / temperature).masked_fill(out, -torch.inf)
        mean = (sharp.softmax(1) * s.square()).sum(1) / 90
        grown = (0.3 * s + 0.01 * s.square()).masked_fill(out, -torch.inf)
        return temperature[:, 0] * sharp.logsumexp(1) + mean + grown.logsumexp(1) - matrix.positive()
