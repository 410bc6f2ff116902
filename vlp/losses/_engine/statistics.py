"""Running log-sum-exps and sums of the rows (or columns) of a matrix that is only ever seen in tiles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlp.losses._engine.peers import Peers
from vlp.losses._engine.tile import Side


@dataclass
class Running:
    """What n rows have gathered so far: for each power the sum of exp(. - peak), and the sums of the terms."""

    peak: Tensor  # [P, n] at most about 60 above the largest power * logit seen, never below it by more than rounding
    mass: Tensor  # [P, n] sum of exp(power * logit - peak)
    total: Tensor  # [T, n] sums of the terms
    positive: Tensor  # [n] the pairs' own logits, 0 where they have not been seen

    @staticmethod
    def empty(n: int, *, powers: int, terms: int, like: Tensor) -> Running:
        """Nothing seen yet of n rows, in the dtype and on the device of `like`."""
        lowest = torch.finfo(like.dtype).min  # finite: -inf minus -inf has no value
        return Running(
            like.new_full((powers, n), lowest), like.new_zeros(powers, n), like.new_zeros(terms, n), like.new_zeros(n)
        )

    def add(self, power: int, peak: Tensor, mass: Tensor) -> None:
        """Takes in sums `mass` [n] of exp(. - peak); `peak` is [n] or []."""
        old = self.peak[power]
        new = torch.maximum(old, peak)
        self.mass[power].mul_((old - new).exp_()).add_(mass * (peak - new).exp_())
        old.copy_(new)

    def cut(self, where: slice) -> Running:
        """Views of some of the rows: what is added to them is added here."""
        return Running(self.peak[:, where], self.mass[:, where], self.total[:, where], self.positive[where])

    def merged(self, peers: Peers) -> Running:
        """The same rows with what all peers have seen of them (the peers' two all-reduces; all of them take part)."""
        if peers.size == 1:
            return self
        terms, total = self.total.shape[0], [self.total, self.positive[None]]
        if self.peak.shape[0] == 0:
            packed = peers.sum(torch.cat(total))
            return Running(self.peak, self.mass, packed[:terms], packed[terms])
        peak = peers.max(self.peak)
        packed = peers.sum(torch.cat([*total, self.mass * (self.peak - peak).exp()]))
        return Running(peak, packed[terms + 1 :], packed[:terms], packed[terms])

    def side(self, size: int) -> Side:
        """The finished statistics, each row having been compared with `size` pairs."""
        lse = self.peak + self.mass.log()
        return Side(tuple(lse.unbind()), tuple(self.total.unbind()), self.positive, size)
