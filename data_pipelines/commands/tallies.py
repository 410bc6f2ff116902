"""Counts of any number of values in bounded memory: histograms, the most frequent values, how many are distinct."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field

FREQUENT = 20_000  # values that a Frequent keeps
SEEN = 1 << 18  # values that a Distinct keeps: about 30 MB


@dataclass
class Histogram:
    """How often each number from 0 up occurred, numbers rounded to three significant digits (1,000 bins a decade).

    Count, sum, least and greatest are exact; quantiles of whole numbers below 1,000 are exact, others are right to
    0.5 %.
    """

    bins: Counter[float] = field(default_factory=Counter)
    count: int = 0
    total: float = 0.0
    least: float = math.inf
    greatest: float = -math.inf

    def add(self, value: float) -> None:
        """Count `value`."""
        self.bins[value if value < 1000 and value == int(value) else float(f"{value:.3g}")] += 1
        self.count += 1
        self.total += value
        self.least, self.greatest = min(self.least, value), max(self.greatest, value)

    @property
    def mean(self) -> float:
        """The exact mean; 0 of no values."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """The smallest bin that at least `share` of the values do not exceed; 0 of no values.

        >>> numbers = Histogram()
        >>> for number in range(1, 11):
        ...     numbers.add(number)
        >>> numbers.quantile(0.5), numbers.quantile(1.0)
        (5, 10)
        """
        below = 0
        for value in sorted(self.bins):
            below += self.bins[value]
            if below >= share * self.count:
                return min(max(value, self.least), self.greatest)
        return 0.0

    def summary(self) -> dict[str, float]:
        """Count, mean, least, greatest and quantiles, as JSON values."""
        if not self.count:
            return {"count": 0}
        shares = {"p5": 0.05, "p50": 0.5, "p95": 0.95, "p99": 0.99}
        quantiles = {name: self.quantile(share) for name, share in shares.items()}
        return {
            "count": self.count,
            "mean": round(self.mean, 3),
            "least": self.least,
            **quantiles,
            "greatest": self.greatest,
        }


@dataclass
class Frequent:
    """The values that occur most often (Misra and Gries, in batches): at most twice `size` of them are kept.

    A count is exact while there are few distinct values, and never more than `short` too low.
    """

    size: int = FREQUENT
    counts: Counter[str] = field(default_factory=Counter)
    short: int = 0

    def add(self, value: str) -> None:
        """Count `value`."""
        self.counts[value] += 1
        if len(self.counts) > 2 * self.size:
            [*_, (_, cut)] = self.counts.most_common(self.size + 1)
            self.counts = Counter({value: n - cut for value, n in self.counts.items() if n > cut})
            self.short += cut

    def top(self, most: int) -> list[tuple[str, int]]:
        """The `most` most frequent values with their counts; ties in the order of the values."""
        return sorted(self.counts.items(), key=lambda row: (-row[1], row[0]))[:most]


@dataclass
class Distinct:
    """How many distinct values there are: exact up to `size` of them, then estimated (adaptive sampling by hash).

    Values whose hash is below a limit are kept; the limit is halved when they are too many. The standard error of the
    estimate is about 1.2 / sqrt(size), 0.2 % by default.
    """

    size: int = SEEN
    limit: int = 1 << 64  # hashes below it are kept
    total: int = 0
    kept: set[int] = field(default_factory=set)

    def add(self, value: bytes) -> None:
        """Count `value`."""
        self.total += 1
        number = int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "big")
        if number < self.limit:
            self.kept.add(number)
            while len(self.kept) > self.size:
                self.limit //= 2
                self.kept = {number for number in self.kept if number < self.limit}

    @property
    def exact(self) -> bool:
        """Whether `distinct` and `repeated` are no estimates."""
        return self.limit == 1 << 64

    @property
    def distinct(self) -> int:
        """How many distinct values were counted."""
        return min(self.total, round(len(self.kept) * ((1 << 64) / self.limit)))

    @property
    def repeated(self) -> int:
        """How many values had been counted before."""
        return self.total - self.distinct
