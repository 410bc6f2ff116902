"""Semantic near-duplicates: SemDeDup (Abbas et al. 2023, arXiv 2303.09540)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Lt
from numpy.typing import NDArray

from eval.filtering.clusters import Clusters, sort
from eval.filtering.kept import Kept
from eval.filtering.pool import BLOCK, Flags, Ints, Pool
from eval.filtering.rules import NOBODY, Border, Rule, Verdict, nothing
from eval.index import Floats
from eval.progress_bar import progress_bar

REASON = "near-duplicate"
COMPARED = 2048  # vectors that are compared with as many at once
FIELDS = [("out", np.bool_), ("score", np.float32), ("like", np.int64)]


@dataclass(frozen=True)
class NearDuplicates(Clusters, Rule):
    """Of pictures in one cluster with a cosine of at least 1 - eps, one stays.

    Samples of a cluster are taken in order, by default those far from its centre first (as in the paper, which keeps
    the one with the lowest cosine to the centroid); one is left out that is near to one that stays, so that everything
    that is left out has a double that stays. The paper's own program leaves out what is near only to one that was left
    out, too (`chains`). Pairs across clusters are not seen.
    """

    scored: ClassVar[str] = "cosine to the nearest picture that stays"
    just_stays: ClassVar[Border] = "highest"

    eps: Annotated[float, Ge(0), Lt(1)] = 0.05
    """pictures with a cosine of at least 1 - eps are duplicates"""
    keep: Literal["far", "near"] = "far"
    """which one stays: the farthest from the centre of its cluster, or the nearest"""
    chains: bool = False
    """leave out what is near only to a sample that is left out itself, too"""

    def judge(self, pool: Pool, stays: Flags, kept: Kept) -> Verdict:
        """Exact within clusters; at most two blocks of vectors are in memory, however large a cluster."""
        at = sort(pool, stays, kept, self)
        toward = at.near if self.keep == "far" else -at.near
        order = np.lexsort((pool.tie[at.numbers], toward, at.cell))
        numbers, cells = at.numbers[order], at.cell[order]
        bounds = np.flatnonzero(np.diff(cells, prepend=-1, append=len(at.centres)))
        reason, score, like = nothing(len(pool))
        with progress_bar("looking for near-duplicates", len(numbers), unit="samples") as advance:
            for name, start, stop in _groups(bounds):
                some = numbers[start:stop]
                inside = bounds[(bounds >= start) & (bounds <= stop)] - start
                found = kept.array(f"found-{name}", partial(self._found, pool, some, inside))
                reason[some], score[some], like[some] = found["out"], found["score"], found["like"]
                advance(len(some))
        return Verdict((REASON,), reason, score, like, {"clusters": len(at.centres), "cosine": round(1 - self.eps, 6)})

    def _found(self, pool: Pool, some: Ints, bounds: Ints) -> NDArray[np.void]:
        """What is found in the clusters [bounds[i], bounds[i + 1]) of these samples."""
        found = np.empty(len(some), FIELDS)
        every = pool.vectors(some) if len(some) <= 2 * BLOCK else None  # at once: they lie in all parts of the store
        for start, stop in pairwise(bounds.tolist()):
            members = some[start:stop]
            load = partial(_vectors, pool, members) if every is None else every[start:stop].__getitem__
            one = repeats(load, len(members), self.eps, chains=self.chains)
            one["like"] = np.where(one["like"] == NOBODY, NOBODY, members[one["like"]])
            found[start:stop] = one
        return found


def _vectors(pool: Pool, members: Ints, places: Ints) -> Floats:
    return pool.vectors(members[places])


def _groups(bounds: Ints) -> list[tuple[int, int, int]]:
    """(number, start, stop) of clusters side by side that have a block of samples together, or are larger alone."""
    groups, start = list[tuple[int, int, int]](), int(bounds[0])
    for bound in bounds[1:].tolist():
        if bound - start >= BLOCK or bound == bounds[-1]:
            groups.append((len(groups), start, bound))
            start = bound
    return groups


def repeats(load: Callable[[Ints], Floats], count: int, eps: float, *, chains: bool) -> NDArray[np.void]:
    """Of `count` vectors in order, which are near to an earlier one that stays: out, score, like.

    `load` gives the unit vectors of some places. score and like are of the nearest earlier one that stays (with
    `chains`: of the nearest earlier one); NaN and NOBODY where there is none.
    """
    found = np.empty(count, FIELDS)
    found["out"], found["score"], found["like"] = False, -np.inf, NOBODY
    for start in range(0, count, COMPARED):
        here = np.arange(start, min(start + COMPARED, count))
        vectors, best = load(here), found[start : start + len(here)]
        for before in range(0, start, COMPARED):
            earlier = np.arange(before, before + COMPARED)
            earlier = earlier if chains else earlier[~found["out"][earlier]]
            _note(best, load(earlier) @ vectors.T, earlier)
        inside = vectors @ vectors.T
        inside[np.tril_indices(len(here))] = -np.inf  # [j, i] for j before i
        near = inside >= 1 - eps
        best["out"] = best["score"] >= 1 - eps
        for place in np.flatnonzero(near.any(axis=0)):
            best["out"][place] |= bool((near[:place, place] & (chains | ~best["out"][:place])).any())
        if not chains:
            inside[best["out"]] = -np.inf
        _note(best, inside, here)
    found["score"][found["like"] == NOBODY] = np.nan
    return found


def _note(best: NDArray[np.void], scores: Floats, earlier: Ints) -> None:
    """Take over, for each column of `scores` [earlier, n], a score that is better than the best so far."""
    if len(earlier):
        row = scores.argmax(axis=0)
        score = scores[row, np.arange(len(best))]
        better = score > best["score"]
        best["score"][better], best["like"][better] = score[better], earlier[row[better]]
