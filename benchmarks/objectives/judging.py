"""Is a recipe better than preset `demo`? Mean reciprocal rank, paired by seed and concept, with what could be seen.

Two things make a measured gain uncertain. Other concepts would have been asked: concepts are resampled, all their
queries together. Other seeds would have been trained: what the gains of single seeds differ by, pooled over all recipes
of a stage because three seeds of one say little, is resampled and added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.bootstrap import interval
from eval.metrics.paired import ROUNDS, holm, holm_levels, two_sided
from vlp.files import write_whole

Floats = NDArray[np.float64]
LEVEL = 0.05  # all recipes of a stage together are called better by mistake at most that often
POWER = 0.8  # how often the least gain that could be seen would be seen


@dataclass(frozen=True)
class Scored:
    """Reciprocal ranks of a run's queries, by concept and way: a language and a direction."""

    sums: Floats  # [C, W]
    counts: Floats  # [C, W] the same for every run on a split

    @property
    def mrr(self) -> float:
        """The mean over ways of the mean over queries."""
        return float((self.sums.sum(0) / self.counts.sum(0)).mean())

    def save(self, path: Path) -> None:
        """Write both as .npz."""
        write_whole(path, lambda part: _save(part, self))

    @classmethod
    def read(cls, path: Path) -> Scored:
        """What `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["sums"], arrays["counts"])


def _save(path: Path, scored: Scored) -> None:
    with path.open("wb") as file:
        np.savez(file, sums=scored.sums, counts=scored.counts)


def mean_scored(runs: Sequence[Scored]) -> Scored:
    """The mean of some runs on one split."""
    return Scored(np.mean([run.sums for run in runs], axis=0), runs[0].counts)


def gains(own: Sequence[Scored], base: Sequence[Scored]) -> Floats:
    """[S] the gain in mean reciprocal rank, seed by seed."""
    return np.array([a.mrr - b.mrr for a, b in zip(own, base, strict=True)])


def noise(by_seed: Sequence[Floats]) -> Floats:
    """What numbers of equal runs [S] but for the seed differ from their means by, pooled: [all of them].

    They are stretched by sqrt(S / (S - 1)), without which three seeds would show two thirds of their variance.

    >>> noise([np.array([1.0, 3.0]), np.array([5.0])]).round(3).tolist()
    [-1.414, 1.414]
    """
    several = [one for one in by_seed if len(one) > 1]
    apart = [(one - one.mean()) * math.sqrt(len(one) / (len(one) - 1)) for one in several]
    return np.concatenate(apart) if apart else np.zeros(0)


def resampled(
    own: Scored, base: Scored, pool: Floats, draws: int, *, spread: float = 1.0, rounds: int = ROUNDS, seed: int = 0
) -> Floats:
    """[rounds] the gain of `own` on `base` (means over seeds), over other concepts and other seeds.

    pool: what `noise` gives for single seeds, of which `draws` are averaged and multiplied by `spread`.
    """
    drawn = times_drawn(len(own.sums), rounds, seed)
    asked = drawn @ own.counts
    apart: Floats = np.divide(drawn @ (own.sums - base.sums), asked, out=np.zeros(asked.shape), where=asked > 0).mean(1)
    if len(pool):
        rng = np.random.default_rng([seed, 1])
        apart = apart + spread * rng.choice(pool, (rounds, draws)).mean(1)
    return apart


@lru_cache(maxsize=1)
def times_drawn(concepts: int, rounds: int, seed: int) -> Floats:
    """[rounds, concepts] how often each concept is drawn, with replacement; the same for all that is compared."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(concepts, np.full(concepts, 1 / concepts), size=rounds).astype(np.float64)


@dataclass(frozen=True)
class Judged:
    """What is said of one gain."""

    gain: float
    interval: tuple[float, float]
    """holds 1 - level of the resamplings"""
    level: float
    """Holm's for this recipe among those judged together"""
    p: float
    p_holm: float
    least: float
    """the least gain that would have been seen in four of five repetitions, at Holm's strictest level"""

    @property
    def pays(self) -> bool:
        """Whether the corrected interval is above zero."""
        return self.p_holm < LEVEL and self.interval[0] > 0

    def row(self) -> dict[str, Any]:
        """For the record."""
        return {**vars(self), "interval": list(self.interval), "pays": self.pays}


def judged(found: Mapping[str, tuple[float, Floats]]) -> dict[str, Judged]:
    """Each recipe's gain and its resamplings [R], judged together (Holm 1979)."""
    ps = [two_sided(drawn) for _, drawn in found.values()]
    several = zip(found.items(), ps, holm(ps), holm_levels(ps, LEVEL), strict=True)
    return {
        name: Judged(gain, interval(drawn, 1 - level), level, p, p_holm, least_gain(float(drawn.std()), len(found)))
        for (name, (gain, drawn)), p, p_holm, level in several
    }


def least_gain(sd: float, tests: int) -> float:
    """The gain that is found better with probability POWER, where its estimate spreads by `sd` and Holm is strictest.

    One test at the 5 % level wants 2.8 standard deviations (1.96 for the level, 0.84 for the power):

    >>> round(least_gain(1.0, 1), 2)
    2.8
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - LEVEL / (2 * tests)) + normal.inv_cdf(POWER)) * sd


def at_equal_seconds(gain: float, slower: float, learning: Mapping[int, float], pairs: int) -> float:
    """The gain on a `demo` that trains as long: given `slower` times the pairs, for `slower` times the seconds each.

    learning: pairs -> mean reciprocal rank of `demo`, taken to be a line in log(pairs) between its points and beyond.

    Twice the seconds, where twice the pairs gain .01:

    >>> round(at_equal_seconds(0.03, 2.0, {1000: 0.10, 2000: 0.11, 4000: 0.12}, 2000), 4)
    0.02
    """
    wanted = pairs * slower
    points = sorted(learning)
    if len(points) < 2:
        return math.nan
    above = next((i for i, point in enumerate(points) if point >= wanted), len(points) - 1)
    low, high = points[max(above - 1, 0)], points[max(above, 1)]
    slope = (learning[high] - learning[low]) / math.log(high / low)
    return gain - (learning[low] + slope * math.log(wanted / low) - learning[pairs])


def share_won_back(
    clean: Scored, spoilt: Scored, helped: Scored, pool: Floats, draws: int, *, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """(helped - spoilt) / (clean - spoilt) in mean reciprocal rank, and its 95 % interval over concepts and seeds.

    All three are means over `draws` seeds; pool: what `noise` gives for single runs.
    """
    rng = np.random.default_rng([seed, 1])
    drawn = times_drawn(len(clean.sums), ROUNDS, seed)
    asked = np.maximum(drawn @ clean.counts, 1)
    scores = [(drawn @ one.sums / asked).mean(1) for one in (clean, spoilt, helped)]
    if len(pool):
        scores = [score + rng.choice(pool, (ROUNDS, draws)).mean(1) for score in scores]
    lost, won = scores[0] - scores[1], scores[2] - scores[1]
    shares = np.divide(won, lost, out=np.zeros(ROUNDS), where=np.abs(lost) > 1e-12)
    whole = clean.mrr - spoilt.mrr
    return (helped.mrr - spoilt.mrr) / whole if whole else math.nan, interval(shares)


def auc(scores: Floats, planted: NDArray[np.bool_]) -> float:
    """The probability that a planted fault scores above a sound sample, ties counted half (Mann and Whitney 1947).

    >>> auc(np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, False, False, True]))
    0.625
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    faults, sound = int(planted.sum()), int((~planted).sum())
    return float((ranks[planted].sum() - faults * (faults + 1) / 2) / (faults * sound))
