"""iSogCLR: a temperature for each picture and caption, and a denominator that is averaged over epochs (2305.11965).

The estimators of Qiu et al., section 4, for two modalities as in their appendix and in FastCLIP (2407.01445), as the
papers' published implementations have them; the texts were not at hand. Temperatures move by plain steps along their
gradient, without the papers' momentum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Le
from torch import Tensor

from vlp.batch import Embeddings
from vlp.config.bounds import AtLeastZero, Positive
from vlp.losses import Softmax
from vlp.losses._engine.among import ALONE, Among
from vlp.losses._engine.tile import Exponent, Matrix, Side, Tile

KEPT = ("isogclr_image_temperature", "isogclr_image_log_u", "isogclr_text_temperature", "isogclr_text_log_u")


@dataclass(frozen=True, kw_only=True)
class ISogCLR(Softmax):
    """t_i (log u_i + rho) with the gradient of t_i g_i / u_i, g_i = mean over j != i of e^((c_ij - c_ii) / t_i).

    u_i <- (1 - gamma) u_i + gamma g_i, and at first g_i, is the picture's or caption's own g over its visits; its
    temperature t_i moves against log u_i + rho - (g_i / u_i) E[c_ij - c_ii] / t_i, E by the weights of g_i. c is the
    bare cosine: the model's logit scale has no part in it. Negative captions of a picture are among its j.
    """

    uses_marks: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("numbers",)
    least_pairs: ClassVar[int] = 2

    gamma: Annotated[float, Gt(0), Le(1)] = 0.8
    """share of this step in u; 1: batches alone, as other losses"""
    temperature: Positive = 0.07
    """of each picture and caption at first"""
    rho: AtLeastZero = 6.5
    """larger ones make for larger temperatures"""
    rate: AtLeastZero = 1e-3
    """learning rate of temperatures; 0: they stay as they are"""
    least: Positive = 0.01
    """the least temperature"""
    most: Positive = 1.0
    """the greatest temperature"""

    @property
    def per_sample(self) -> Mapping[str, float]:
        """Temperature and log u of the picture and of the caption."""
        return dict(zip(KEPT, (self.temperature, -math.inf) * 2, strict=True))

    @property
    def exponent_count(self) -> int:
        """That of pictures, and that of captions."""
        return 2

    @property
    def mean_count(self) -> int:
        """Both have one, for the temperatures."""
        return 2

    def exponents(self, tile: Tile) -> Iterator[Exponent]:
        """c / t by the temperatures of rows and by those of columns, the pairs' own left out."""
        assert tile.row_marks is not None
        cosines, inverse = tile.logits, 1 / tile.row_marks[:, :1]
        yield Exponent(self.others(tile, cosines * inverse), inverse.expand_as(cosines), cosines, 1.0, "rows")
        if tile.column_marks is None:
            nowhere = torch.full_like(cosines, -torch.inf)
            yield Exponent(nowhere, 0.0, torch.zeros_like(cosines), 0.0, "columns")
        else:
            inverse = 1 / tile.column_marks[None, :, 2]
            yield Exponent(self.others(tile, cosines * inverse), inverse.expand_as(cosines), cosines, 1.0, "columns")

    def others(self, tile: Tile, values: Tensor) -> Tensor:
        """The values [r, c], -inf at the pairs' own."""
        if not tile.local:
            tile.own(values).fill_(-torch.inf)
        return values

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The loss []."""
        marks = torch.stack([self.before(among, name, e) for name in KEPT], 1)
        bare = replace(e, scale=torch.ones_like(e.scale.detach()), marks=marks, bank_image=None, bank_text=None)
        found = among.contrast(self, bare)
        for side, names in ((found.rows, KEPT[:2]), (found.columns, KEPT[2:])):
            assert side is not None
            for name, value in zip(names, self.moved(side), strict=True):
                among.keep(name, value)
        return found.value

    def of(self, side: Side) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[n] temperature, log g, the new log u and E[c_ij - c_ii] of each pair in one direction."""
        assert side.marks is not None
        k = 0 if side.way == "rows" else 1
        temperature, before = side.marks[:, 2 * k], side.marks[:, 2 * k + 1]
        positive = self.target(side)
        log_g = side.lse[k] - positive / temperature - math.log(side.size - 1)
        return temperature, log_g, self.averaged(before, log_g.detach()), side.mean[k] - positive

    def averaged(self, before: Tensor, log_g: Tensor) -> Tensor:
        """log((1 - gamma) u + gamma g), or log g where there is no u."""
        if self.gamma == 1:
            return log_g
        both = torch.logaddexp(before + math.log(1 - self.gamma), log_g + math.log(self.gamma))
        return torch.where(before.isneginf(), log_g, both)

    def each(self, side: Side) -> Tensor:
        """[n] the loss of each pair, from its statistics."""
        temperature, log_g, log_u, _ = self.of(side)
        return self.estimate(temperature, log_g, log_u)

    def estimate(self, temperature: Tensor, log_g: Tensor, log_u: Tensor) -> Tensor:
        """[n] the value of t (log u + rho), with the gradient of t g / u."""
        part = temperature * (log_g - log_u).exp()
        return temperature * (log_u + self.rho) + part - part.detach()

    def moved(self, side: Side) -> tuple[Tensor, Tensor]:
        """[n] temperature and log u of each pair after the step, in one direction."""
        temperature, log_g, log_u, apart = self.of(side)
        slope = log_u + self.rho - (log_g - log_u).exp() * apart / temperature
        return (temperature - self.rate * slope).clamp(self.least, self.most), log_u

    def definition(self, matrix: Matrix) -> Tensor:
        """[B] the loss of each pair, from the whole matrix."""
        assert matrix.marks is not None
        k = 0 if matrix.way == "rows" else 2
        temperature, before = matrix.marks[:, k : k + 1], matrix.marks[:, k + 1]
        apart = torch.cat([matrix.logits.masked_fill(matrix.own(), -torch.inf), matrix.local], 1)
        apart = apart - self.smoothed(matrix.positive(), matrix.logits.mean(1))[:, None]
        log_g = (apart / temperature).logsumexp(1) - math.log(len(matrix.logits) - 1)
        return self.estimate(temperature[:, 0], log_g, self.averaged(before, log_g.detach()))
