"""Batches of small neighbourhoods: a sample and those that are most like it (Sample4Geo 2303.11851, section 3.3).

STAR (2104.08051, section 4) takes hard negatives for each query from an index in the same way; in a batch that is
contrasted as a whole they serve everybody. Written from the papers' descriptions, without their text at hand.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.plans import Plan, batches_in_turns
from vlp.config import COMMON
from vlp.config.bounds import Count, Share

TRIES = 32  # places that a sample is offered which was left with too similar ones


@dataclass(frozen=True)
class Neighbours(Plan):
    """Each batch is made of groups of similar samples; pairs that are too similar to be negatives are kept apart."""

    group: Annotated[Count, COMMON] = 8
    """samples of one neighbourhood in a batch: one that is drawn, and its nearest that are still to come"""
    nearest: Count = 64
    """neighbours of each sample that are known"""
    ceiling: Annotated[Share, COMMON] = 0.95
    """samples more alike than this (cosine) may show the same thing, and do not meet in a batch if it can be helped"""

    def wanted(self, samples: int) -> int:
        """The neighbours of each sample."""
        return min(self.nearest, max(samples - 1, 1))

    def plan(self, ids: NDArray[Any], scores: NDArray[Any], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """As Plan.plan: in time S K, with a few numbers for each sample beside the neighbours."""
        walk = _Walk(self, ids, scores, batch)
        return batches_in_turns(walk.exchanged(walk.order(rng.permutation(len(ids))), rng), batch, rng)


class _Walk:
    """One walk through all samples. `batch` of them at a time share what `apart` says."""

    def __init__(self, plan: Neighbours, ids: NDArray[Any], scores: NDArray[Any], batch: int) -> None:
        self.plan, self.ids, self.scores, self.batch = plan, ids, scores, batch
        self.placed = np.zeros(len(ids), bool)
        self.made = np.empty(len(ids), np.int64)
        self.count = 0
        self.here: set[int] = set()  # samples of the present batch
        self.apart: set[int] = set()  # that are too similar to one of them
        self.forced: list[int] = []  # places of samples that were left with too similar ones

    def order(self, seeds: NDArray[np.int64]) -> NDArray[np.int64]:
        """The walk from seed to seed; one that has to stay apart from the batch is asked again for later batches."""
        waiting: deque[int] = deque()
        for seed in seeds.tolist():
            if not self.here:  # a new batch
                self.ask_again(waiting, self.batch)
            if not self.begin(seed):
                waiting.append(seed)
        while waiting:
            if self.ask_again(waiting, len(waiting)) == 0:  # nothing but too similar ones are left
                for _ in range(min(len(waiting), self.batch - len(self.here))):
                    self.forced.append(self.count)
                    self.place(waiting.popleft())
        return self.made

    def exchanged(self, order: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """`order`, in which samples that were left change places with others, where that keeps similar ones apart."""
        at = np.empty(len(order), np.int64)
        at[order] = np.arange(len(order))

        def alone(sample: int, place: int) -> bool:
            too_near = [other for other, score in self.neighbours(sample) if score > self.plan.ceiling]
            return not (at[too_near] // self.batch == place // self.batch).any()

        for here in self.forced:
            for there in rng.integers(0, len(order), TRIES).tolist():
                one, other = int(order[here]), int(order[there])
                if here // self.batch != there // self.batch and alone(one, there) and alone(other, here):
                    order[here], order[there] = other, one
                    at[one], at[other] = there, here
                    break
        return order

    def ask_again(self, waiting: deque[int], most: int) -> int:
        """Begin with those that wait, the longest first; how many of them need not wait any more."""
        before = len(waiting)
        for _ in range(min(most, before)):
            if not self.begin(one := waiting.popleft()):
                waiting.append(one)
        return before - len(waiting)

    def begin(self, seed: int) -> bool:
        """Place a sample and its neighbourhood; False if it has to wait for another batch."""
        if self.placed[seed]:
            return True
        near = self.neighbours(seed)
        if not self.fits(seed, near):
            return False
        room = min(self.plan.group, self.batch - len(self.here)) - 1
        self.place(seed, near)
        for other, score in near:
            if room <= 0:
                break
            if score > self.plan.ceiling or self.placed[other]:
                continue
            theirs = self.neighbours(other)
            if self.fits(other, theirs):
                self.place(other, theirs)
                room -= 1
        return True

    def neighbours(self, sample: int) -> list[tuple[int, float]]:
        """Those of a sample, nearest first, with their scores."""
        row = zip(self.ids[sample].tolist(), self.scores[sample].tolist(), strict=True)
        return [(other, score) for other, score in row if other >= 0]

    def fits(self, sample: int, near: list[tuple[int, float]]) -> bool:
        """Whether a sample may come into the present batch."""
        return sample not in self.apart and not any(
            score > self.plan.ceiling and other in self.here for other, score in near
        )

    def place(self, sample: int, near: list[tuple[int, float]] | None = None) -> None:
        """Give a sample the next place; a batch that is full by it is closed."""
        self.placed[sample] = True
        self.made[self.count] = sample
        self.count += 1
        self.here.add(sample)
        near = self.neighbours(sample) if near is None else near
        self.apart.update(other for other, score in near if score > self.plan.ceiling)
        if len(self.here) == self.batch:
            self.here, self.apart = set(), set()
