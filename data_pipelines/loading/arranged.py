"""A plan applied to an epoch of a stream: every source's draws in the plan's order, mixed in exact shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.loading.epoch_order import Order, mix
from data_pipelines.loading.mixture import interleave
from data_pipelines.loading.numbering import Numbering
from data_pipelines.loading.planned import passes
from data_pipelines.plans import NOBODY, Plan

ROWS = 65_536  # that are renumbered at a time


@dataclass(frozen=True)
class Alike:
    """What is known of the samples of one source, which are counted through its shards."""

    ids: NDArray[Any]  # [S, K] as Plan.plan wants them
    scores: NDArray[Any]  # [S, K]

    def among(self, members: NDArray[np.int64], *, renumbered: bool) -> Alike:
        """The same of some samples [n] only; `renumbered`: ids are of samples, and count through `members` then."""
        if len(members) == len(self.ids) and np.array_equal(members, np.arange(len(members))):
            return self
        ids = np.empty((len(members), self.ids.shape[1]), np.int32)
        place = np.full(len(self.ids) + 1, NOBODY, np.int32)  # the last one is for NOBODY
        place[members] = np.arange(len(members))
        for start in range(0, len(members), ROWS):
            some = np.asarray(self.ids[members[start : start + ROWS]])
            ids[start : start + ROWS] = place[some] if renumbered else some
        return Alike(ids, np.asarray(self.scores[members]))


@dataclass(frozen=True)
class Arranging:
    """Epochs of a stream in the order of a plan; each source is planned by itself.

    A source has the same share of every batch as without a plan, and no sample comes twice in one pass. Memory: the
    epoch's numbers a few times over, and the neighbours of a pass that an epoch does not draw whole.
    """

    order: Order
    numbering: Numbering
    plan: Plan
    known: Sequence[Alike]  # of each source

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """[T] the numbers of an epoch's samples in their order, which follows from the stream's seed."""
        parts = [self._source(epoch, source) for source in range(len(self.order.sources))]
        if len(parts) == 1:
            return parts[0]
        source, nth = interleave([len(part) for part in parts])
        mixed = np.empty(len(source), np.int64)
        for number, part in enumerate(parts):
            mixed[source == number] = part[nth[source == number]]
        return mixed

    def _source(self, epoch: int, source: int) -> NDArray[np.int64]:
        """[draws] the numbers of the samples that an epoch draws from one source, in their order."""
        order, s = self.order, self.order.sources[source]
        batch = max(1, round(order.global_batch * s.draws / order.samples))
        begins, parts = np.cumsum(s.counts) - s.counts, [np.empty(0, np.int64)]
        for turn, (shard, sample) in enumerate(passes(order, source, epoch)):
            members = np.sort(begins[shard] + sample)
            rng = np.random.default_rng(mix(order.seed, 5, epoch, source, turn))
            some = self.known[source].among(members, renumbered=self.plan.asks == "neighbours")
            members = members[self.plan.plan(some.ids, some.scores, batch, rng)]
            shard = np.searchsorted(np.cumsum(s.counts), members, side="right")
            parts.append(self.numbering.firsts[source][shard] + members - begins[shard])
        return np.concatenate(parts)
