"""The number of each sample of a stream: by the shard's place among the shards, and the sample's place in it.

It is the same in every epoch, on any number of ranks and workers, by whatever weights sources are mixed. A shard that
several sources have is numbered once, so that equal samples have equal numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Numbering:
    """Numbers 0 to `total` - 1 for the samples of all sources."""

    firsts: tuple[NDArray[np.int64], ...]  # for each source the number of the first sample of each of its shards
    total: int  # samples that are numbered
    starts: NDArray[np.int64]  # the first number of each shard that is numbered, ascending
    shards: NDArray[np.int64]  # [n, 2] source and shard of each of them: where it came first

    @classmethod
    def of(cls, urls: Sequence[Sequence[str]], counts: Sequence[Sequence[int] | NDArray[np.int64]]) -> Numbering:
        """The numbers of samples in these shards: for each source the URLs, and how many samples each shard has."""
        sizes: dict[str, int] = {}
        places: dict[str, tuple[int, int]] = {}
        for source, (names, own) in enumerate(zip(urls, counts, strict=True)):
            for shard, (name, count) in enumerate(zip(names, own, strict=True)):
                sizes[name] = max(sizes.get(name, 0), int(count))
                places.setdefault(name, (source, shard))
        ends = np.cumsum([0, *sizes.values()], dtype=np.int64)
        first = dict(zip(sizes, ends[:-1].tolist(), strict=True))
        firsts = tuple(np.array([first[name] for name in names], np.int64) for names in urls)
        return cls(firsts, int(ends[-1]), ends[:-1], np.array(list(places.values()), np.int64).reshape(-1, 2))

    def number(self, source: int, shard: int, sample: int) -> int:
        """The number of a sample."""
        return int(self.firsts[source][shard]) + sample

    def place(self, number: int) -> tuple[int, int, int]:
        """(source, shard, sample) of a number; of a shard that several sources have, the first of them.

        >>> numbers = Numbering.of([["a.tar", "b.tar"], ["b.tar", "c.tar"]], [[2, 3], [3, 1]])
        >>> numbers.total, numbers.number(1, 0, 2), numbers.place(4), numbers.place(5)
        (6, 4, (0, 1, 2), (1, 1, 0))
        """
        if not 0 <= number < self.total:
            raise IndexError(f"there is no sample number {number} among {self.total}")
        at = int(np.searchsorted(self.starts, number, side="right")) - 1
        source, shard = self.shards[at].tolist()
        return source, shard, number - int(self.starts[at])
