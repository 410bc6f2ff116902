"""The order of an epoch, as arithmetic: which sample stands at which place of which batch.

A global batch has G rows. Rows come in L *lanes* (L divides G), q = G / L rows each. The samples of an epoch are dealt
to the lanes in equal shares; a lane reads its share nearly in tar order, in *windows*, and gives out the samples of a
window in a permuted order. Everything is a function of (seed, epoch, sources, global batch): no state, no clock, no
rank, no worker. A rank or worker owns rows, and can find the sample of any row in any batch by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_pipelines.loading.mixture import interleave
from vlp.errors import UserError

Last = Literal["wrap", "drop"]
_MASK = (1 << 64) - 1


def mix(*values: int) -> int:
    """A 64-bit hash of integers (splitmix64), the same everywhere and for ever."""
    h = 0
    for value in values:
        h = (h + (value & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & _MASK
        h ^= h >> 31
    return h


def permutation(n: int, key: int) -> NDArray[np.int64]:
    """A permutation of range(n) that depends on `key` alone, not on numpy's version."""
    with np.errstate(over="ignore"):
        h = np.arange(n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        h ^= h >> np.uint64(31)
    return np.argsort(h, kind="stable")


@dataclass(frozen=True)
class OrderSource:
    """A set of shards and how many samples an epoch draws from it."""

    counts: NDArray[np.int64]  # samples of each shard
    draws: int  # samples drawn in an epoch; pass after pass, so that no sample comes twice before all came once

    @cached_property
    def size(self) -> int:
        """Samples in one pass."""
        return int(self.counts.sum())


@dataclass(frozen=True)
class Place:
    """Where a sample lies, and the pass of its source in which it is drawn."""

    source: int
    shard: int
    sample: int
    round: int
    lane: int = -1
    window: int = -1


@dataclass(frozen=True)
class Order:
    """The order of every epoch."""

    sources: tuple[OrderSource, ...]
    global_batch: int
    seed: int = 0
    most_lanes: int = 64
    window: int = 512
    last: Last = "wrap"
    _windows: dict[tuple[int, int], tuple[tuple[int, int], NDArray[np.int64]]] = field(default_factory=dict, repr=False)
    _passes: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.int64], int]] = field(
        default_factory=dict, repr=False
    )

    def __post_init__(self) -> None:
        if self.global_batch < 1:
            raise UserError(f"global_batch is {self.global_batch}, expected at least 1")
        if not self.samples:
            raise UserError("the shards have no samples")
        if not self.batches:
            raise UserError(
                f"an epoch of {self.samples} samples does not fill one batch of {self.global_batch}: "
                'take a smaller global batch, or last = "wrap"'
            )

    @cached_property
    def samples(self) -> int:
        """Samples drawn in an epoch."""
        return sum(s.draws for s in self.sources)

    @cached_property
    def batches(self) -> int:
        """Batches of an epoch."""
        return (self.samples + (self.global_batch - 1 if self.last == "wrap" else 0)) // self.global_batch

    @cached_property
    def lanes(self) -> int:
        """The largest divisor of the global batch that is at most `most_lanes` and at most the number of samples."""
        most = max(1, min(self.most_lanes, self.samples, self.global_batch))
        return next(n for n in range(most, 0, -1) if self.global_batch % n == 0)

    @cached_property
    def shares(self) -> NDArray[np.int64]:
        """[S, L] samples of each source in each lane: rows sum to the draws, columns differ by at most one."""
        ends = np.cumsum([0] + [s.draws for s in self.sources])
        lane = np.arange(self.lanes)
        below: NDArray[np.int64] = (ends[:, None] - lane[None, :] + self.lanes - 1) // self.lanes
        return np.diff(below, axis=0)

    @cached_property
    def _lengths(self) -> list[int]:
        """Samples of each lane in an epoch."""
        return [int(n) for n in self.shares.sum(axis=0)]

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """[S, L] first draw of each lane's share of each source."""
        return np.cumsum(self.shares, axis=1) - self.shares

    @cached_property
    def _mixed(self) -> tuple[tuple[NDArray[np.uint16], NDArray[np.int64]] | None, ...]:
        """For each lane of a mixture: the source of each slot and how often it came before; None for one source."""
        if len(self.sources) == 1:
            return (None,) * self.lanes
        distinct = {tuple(c): interleave(c) for c in self.shares.T.tolist()}
        return tuple(distinct[tuple(c)] for c in self.shares.T.tolist())

    def place(self, epoch: int, row: int, turn: int) -> Place:
        """The sample of `row` in its `turn`-th turn of `epoch`; turns past its lane's share go on in the next lanes."""
        per_lane = self.global_batch // self.lanes
        lane, column = divmod(row, per_lane)
        lap, slot = divmod(turn * per_lane + column, self._lengths[lane])
        if lap:
            lane = (lane + lap) % self.lanes
            slot %= self._lengths[lane]
        length = self._lengths[lane]
        mixed = self._mixed[lane]
        if mixed is None:
            source, nth = 0, slot
        else:
            slot = (
                slot + lane * length // self.lanes
            ) % length  # lanes are out of step, so that batches are mixed evenly
            source, nth = int(mixed[0][slot]), int(mixed[1][slot])
        return self._draw(epoch, lane, source, nth)

    def again(self, row: int, turn: int) -> bool:
        """Whether the sample of `row` in its `turn`-th turn has its place in the epoch elsewhere, for each has one."""
        per_lane = self.global_batch // self.lanes
        lane, column = divmod(row, per_lane)
        return turn * per_lane + column >= self._lengths[lane]

    def _draw(self, epoch: int, lane: int, source: int, nth: int) -> Place:
        """The `nth` sample that `lane` gives out of `source`: windows permuted, then looked up in the pass's shards."""
        share = int(self.shares[source, lane])
        number = (nth + self._phase(lane, share)) // self.window
        start, stop = self._window(lane, number, share)
        window = self._windows.get((lane, source))
        if window is None or window[0] != (epoch, number):
            order = permutation(stop - start, mix(self.seed, 1, epoch, source, lane, number))
            window = self._windows[lane, source] = ((epoch, number), order)
        draw = int(self._starts[source, lane]) + start + int(window[1][nth - start])
        return replace(self.drawn(source, epoch, draw), lane=lane, window=number)

    def drawn(self, source: int, epoch: int, draw: int) -> Place:
        """The sample of a draw of `epoch` from `source`: draws run on from epoch to epoch, pass after pass."""
        s = self.sources[source]
        round_, position = divmod(epoch * s.draws + draw, s.size)
        shards, ends, turn = self._pass(source, round_)
        position = (position + turn) % s.size
        at = int(np.searchsorted(ends, position, side="right"))
        shard = int(shards[at])
        return Place(source, shard, position - int(ends[at]) + int(s.counts[shard]), round_)

    def samples_at(
        self, source: int, round_: int, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(shard, sample in it), each [n], at some positions of a pass of a source."""
        shards, ends, turn = self._pass(source, round_)
        positions = (positions + turn) % self.sources[source].size
        at = np.searchsorted(ends, positions, side="right")
        return shards[at], positions - ends[at] + self.sources[source].counts[shards[at]]

    def _pass(self, source: int, round_: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """The shards of a pass in their order, where each ends, and the rotation by which the pass starts."""
        key = (source, round_)
        if key not in self._passes:
            s = self.sources[source]
            shards = permutation(len(s.counts), mix(self.seed, 2, source, round_))
            while len(self._passes) >= 2 * len(self.sources) + 2:
                self._passes.pop(next(iter(self._passes)))
            self._passes[key] = (shards, np.cumsum(s.counts[shards]), mix(self.seed, 3, source, round_) % s.size)
        return self._passes[key]

    def upcoming(self, epoch: int, place: Place) -> list[Place]:
        """The samples of the window after that of `place`, to begin fetching them; none at a share's end."""
        share = int(self.shares[place.source, place.lane])
        start, stop = self._window(place.lane, place.window + 1, share)
        first = int(self._starts[place.source, place.lane])
        return [self.drawn(place.source, epoch, first + n) for n in range(start, stop)]

    def _window(self, lane: int, number: int, share: int) -> tuple[int, int]:
        """First sample and last sample + 1 of a window of a lane's share; windows of different lanes end apart."""
        phase = self._phase(lane, share)
        return max(0, number * self.window - phase), min(share, (number + 1) * self.window - phase)

    def _phase(self, lane: int, share: int) -> int:
        """By how much the first window of a lane is shorter; a share that fits one window is not cut."""
        return lane * self.window // self.lanes if share > self.window else 0
