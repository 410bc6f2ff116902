"""Running log-sum-exps and sums of the rows (or columns) of a matrix that is only ever seen in tiles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlp.losses._engine.peers import Peers
from vlp.losses._engine.tile import Side, TileForm, Way


@dataclass
class Running:
    """What n rows have gathered so far: for each exponent the sum of exp(. - peak), and the sums of the terms."""

    peak: Tensor  # [P, n] at most about 60 above the largest value seen, never below it by more than rounding
    mass: Tensor  # [P, n] sum of exp(value - peak)
    moment: Tensor  # [M, n] sum of exp(value - peak) * mean, of the first M exponents
    total: Tensor  # [T, n] sums of the terms
    positive: Tensor  # [n] the pairs' own logits, 0 where they have not been seen

    @staticmethod
    def empty(n: int, loss: TileForm, like: Tensor) -> Running:
        """Nothing seen yet of n rows, in the dtype and on the device of `like`."""
        lowest = torch.finfo(like.dtype).min  # finite: -inf minus -inf has no value
        return Running(
            like.new_full((loss.exponent_count, n), lowest),
            like.new_zeros(loss.exponent_count, n),
            like.new_zeros(loss.mean_count, n),
            like.new_zeros(loss.term_count, n),
            like.new_zeros(n),
        )

    def add(self, which: int, peak: Tensor, mass: Tensor, moment: Tensor | None = None) -> None:
        """Takes in sums `mass` [n] of exp(. - peak), and `moment` [n] if there is a mean; `peak` is [n] or []."""
        old = self.peak[which]
        new = torch.maximum(old, peak)
        before, now = (old - new).exp_(), (peak - new).exp_()
        self.mass[which].mul_(before).add_(mass * now)
        if moment is not None:
            self.moment[which].mul_(before).add_(moment * now)
        old.copy_(new)

    def cut(self, where: slice) -> Running:
        """Views of some of the rows: what is added to them is added here."""
        parts = self.peak[:, where], self.mass[:, where], self.moment[:, where], self.total[:, where]
        return Running(*parts, self.positive[where])

    def merged(self, peers: Peers) -> Running:
        """The same rows with what all peers have seen of them (the peers' two all-reduces; all of them take part)."""
        if peers.size == 1:
            return self
        terms, total = self.total.shape[0], [self.total, self.positive[None]]
        if self.peak.shape[0] == 0:
            packed = peers.sum(torch.cat(total))
            return Running(self.peak, self.mass, self.moment, packed[:terms], packed[terms])
        means = self.moment.shape[0]
        peak = peers.max(self.peak)
        shrunk = (self.peak - peak).exp()
        packed = peers.sum(torch.cat([*total, self.moment * shrunk[:means], self.mass * shrunk]))
        moment, mass = packed[terms + 1 : terms + 1 + means], packed[terms + 1 + means :]
        return Running(peak, mass, moment, packed[:terms], packed[terms])

    def side(self, size: int, *, way: Way, marks: Tensor | None = None) -> Side:
        """The finished statistics, each row having been compared with `size` pairs."""
        lse = self.peak + self.mass.log()
        mass = self.mass[: self.moment.shape[0]].clamp_min(torch.finfo(self.mass.dtype).tiny)
        mean = (self.moment / mass).unbind()
        return Side(tuple(lse.unbind()), tuple(self.total.unbind()), self.positive, size, tuple(mean), marks, way)
