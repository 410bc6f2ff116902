"""Bad-pair mining: pairs whose loss has always been large, or small, count less (Lan et al., 2302.03357).

Sections 3.4 of the paper, as they are told elsewhere: its text was not at hand. The mean and deviation that a pair's
history is compared with are those of the batch here, of all samples at an epoch there; and the weight is that of the
pair's mean loss until now, there of its loss at this step, which would have to be computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.config.bounds import AtLeastZero
from vlp.errors import UserError
from vlp.losses import Loss, Objective
from vlp.losses._engine.among import ALONE, Among
from vlp.losses._reweighted import reweighted
from vlp.losses.infonce import InfoNCE


@dataclass(frozen=True, kw_only=True)
class History(Objective):
    """mean of w_i base_i, m_i the mean of the pair's losses in earlier steps, mu and sigma of the m of the batch.

    w_i = e^(-(m_i - mu)^2 / 2 sigma^2) / (sigma sqrt(2 pi)), 1 at most, where m_i > mu + faulty sigma or
    m_i < mu - noisy sigma; else 1, also for pairs that are seen for the first time.
    """

    needs: ClassVar[tuple[str, ...]] = ("numbers",)

    base: Objective = field(default_factory=InfoNCE)
    """the loss whose pairs are weighted: one of those with a softmax"""
    faulty: AtLeastZero = 0.25
    """pairs so many deviations above the mean are bad: their captions are not theirs"""
    noisy: AtLeastZero = 3.0
    """pairs so many deviations below the mean are bad: they are told apart by noise; 0: none"""

    def __post_init__(self) -> None:
        """Raises UserError for a base that has no loss of each pair."""
        super().__post_init__()
        base = self.base
        if not isinstance(base, Loss) or base.linear or type(base).__call__ is not Loss.__call__:
            raise UserError(
                f'"loss.base" is {type(base).__name__}, which does not tell the loss of each pair; '
                "history weights infonce, dcl, hn_nce or multi_positive"
            )

    @property
    def contrasts(self) -> tuple[Loss, ...]:
        """The loss that it weights."""
        return (self.weighed,)

    @property
    def weighed(self) -> Loss:
        """The base, which tells the loss of each pair."""
        assert isinstance(self.base, Loss)
        return self.base

    @property
    def per_sample(self) -> Mapping[str, float]:
        """The mean of a pair's losses, and how many they are."""
        return {**super().per_sample, "history_loss": 0.0, "history_times": 0.0}

    def __call__(self, e: Embeddings, among: Among = ALONE) -> Tensor:
        """The objective []."""
        mean, times = self.before(among, "history_loss", e), self.before(among, "history_times", e)
        e, share = reweighted(e, among, self.weights(among, mean, times > 0))
        found = among.contrast(self.weighed, e)
        assert found.rows is not None
        assert found.columns is not None
        loss = (self.weighed.each(found.rows) + self.weighed.each(found.columns)) / 2
        among.keep("history_times", times + 1)
        among.keep("history_loss", mean + (loss - mean) / (times + 1))
        return found.value * share

    def weights(self, among: Among, mean: Tensor, known: Tensor) -> Tensor:
        """[b] the weights of pairs, `known` of which have a history."""
        some = torch.where(known, mean, 0).double()
        count, total, squares = among.total(torch.stack([known.double().sum(), some.sum(), some.square().sum()]))
        mu = total / count.clamp_min(1)
        sigma = (squares / count.clamp_min(1) - mu.square()).clamp_min(1e-12).sqrt()
        apart = (mean - mu) / sigma
        bad = known & ((apart > self.faulty) | ((apart < -self.noisy) & (self.noisy > 0)))
        density = (-apart.square() / 2).exp() / (sigma * math.sqrt(2 * math.pi))
        return torch.where(bad, density.clamp_max(1), 1).to(mean.dtype)
