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


def arranged(
    order: Order, numbering: Numbering, epoch: int, plan: Plan, known: Sequence[Alike], seed: int
) -> NDArray[np.int64]:
    """[T] the numbers of an epoch's samples in the order of `plan`; each source is planned by itself.

    A source has the same share of every batch as without a plan, and no sample comes twice in one pass. `known`: of
    each source. Memory: the epoch's numbers a few times over, and the neighbours of a pass that is not a whole one.
    """
    parts = [
        _source(order, numbering, source, epoch, plan, known[source], seed) for source in range(len(order.sources))
    ]
    if len(parts) == 1:
        return parts[0]
    source, nth = interleave([len(part) for part in parts])
    mixed = np.empty(len(source), np.int64)
    for number, part in enumerate(parts):
        mixed[source == number] = part[nth[source == number]]
    return mixed


def _source(
    order: Order, numbering: Numbering, source: int, epoch: int, plan: Plan, alike: Alike, seed: int
) -> NDArray[np.int64]:
    """[draws] the numbers of the samples that an epoch draws from one source, in their order."""
    s = order.sources[source]
    batch = max(1, round(order.global_batch * s.draws / order.samples))
    begins, parts = np.cumsum(s.counts) - s.counts, [np.empty(0, np.int64)]
    for turn, (shard, sample) in enumerate(passes(order, source, epoch)):
        members = np.sort(begins[shard] + sample)
        rng = np.random.default_rng(mix(seed, 5, epoch, source, turn))
        some = alike.among(members, renumbered=plan.asks == "neighbours")
        members = members[plan.plan(some.ids, some.scores, batch, rng)]
        shard = np.searchsorted(np.cumsum(s.counts), members, side="right")
        parts.append(numbering.firsts[source][shard] + members - begins[shard])
    return np.concatenate(parts)
