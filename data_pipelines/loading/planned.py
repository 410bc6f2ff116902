"""The order of epochs out of a plan: which sample of the stream stands at which place, written down for some epochs.

A plan is data, with a checksum: the order is a function of (seed, epoch, plan), whoever reads it, on any number of
ranks and workers. Samples are named by their numbers in the stream.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.loading.epoch_order import Order, Place
from data_pipelines.loading.numbering import Numbering
from data_pipelines.shards.open_shards import OpenShards
from data_pipelines.shards.shard_set import is_remote
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.legible import plain

FORMAT = "vlp-plan-1"


@dataclass(frozen=True)
class EpochPlan:
    """The samples of some epochs in their order."""

    orders: NDArray[np.integer[Any]]  # [E, T] sample numbers of the epochs from `first` on
    first: int
    shards: str  # what it is bound to: the checksum of the shards
    made: Mapping[str, str] = field(default_factory=dict)  # how, for whoever reads it

    @cached_property
    def sha256(self) -> str:
        """The checksum (hex) of all that it says."""
        digest = hashlib.sha256(self._head.encode())
        digest.update(np.ascontiguousarray(self.orders).data)
        return digest.hexdigest()

    @property
    def _head(self) -> str:
        head = {"format": FORMAT, "first": self.first, "shards": self.shards, "made": dict(self.made)}
        return json.dumps({**head, "shape": self.orders.shape, "type": self.orders.dtype.str}, sort_keys=True)

    def covers(self, epoch: int) -> bool:
        """Whether it has an order for an epoch."""
        return self.first <= epoch < self.first + len(self.orders)

    def of(self, epoch: int) -> NDArray[np.integer[Any]]:
        """[T] the samples of an epoch; beyond its last epoch that one again, for workers that read ahead."""
        return self.orders[min(max(epoch - self.first, 0), len(self.orders) - 1)]  # type: ignore[no-any-return]

    def write(self, path: Path) -> None:
        """Write it whole: one line of JSON, then the numbers."""
        head = json.dumps({"sha256": self.sha256, "head": self._head}) + "\n"
        write_whole(path, head.encode() + np.ascontiguousarray(self.orders).tobytes())

    @classmethod
    def read(cls, path: Path) -> EpochPlan:
        """What `write` wrote. Raises UserError if it is no plan, or if its checksum is another."""
        try:
            line, _, body = path.read_bytes().partition(b"\n")
            record = json.loads(line)
            head = json.loads(record["head"])
            if head["format"] != FORMAT:
                raise ValueError(f"its format is {head['format']!r}, expected {FORMAT!r}")
            orders = np.frombuffer(body, head["type"]).reshape(head["shape"])
            read = cls(orders, int(head["first"]), str(head["shards"]), dict(head["made"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a plan of epochs ({plain(error)}); remove it, and plan again") from None
        if read.sha256 != record["sha256"]:
            raise UserError(f"{path} is damaged: its checksum is not the one it was written with; plan again")
        return read


@dataclass(frozen=True, kw_only=True)
class Planned(Order):
    """The order that a plan says. Row r of batch b has the sample at place b G + r; a lost one gives way to the next
    batch's, as in every order."""

    plan: EpochPlan = field(repr=False)
    numbering: Numbering = field(repr=False)

    def check(self, opened: Sequence[OpenShards]) -> None:
        """Raise UserError for a plan of other shards, or of other draws of them."""
        if self.plan.shards != bound_to(opened):
            raise UserError(
                f"the plan of epochs from {self.plan.first} on was made for other shards than those of the stream "
                "(their names, checksums or numbers of samples differ); restore them, or plan again in a new run"
            )
        wanted = np.sort(np.concatenate(drawn(self, self.numbering, self.plan.first)))
        if self.plan.orders.shape[1] != self.samples or not np.array_equal(np.sort(self.plan.orders[0]), wanted):
            raise UserError(
                f"the plan of epochs from {self.plan.first} on has {self.plan.orders.shape[1]:,} places and the epoch "
                f"{self.samples:,}, or draws other samples; the mixture was another when it was made: plan again"
            )

    @cached_property
    def lanes(self) -> int:
        """One: places are counted through the batch."""
        return 1

    def place(self, epoch: int, row: int, turn: int) -> Place:
        """As Order.place; turns past the end go on at the beginning."""
        at = (turn * self.global_batch + row) % self.samples
        return Place(*self.numbering.place(int(self.plan.of(epoch)[at])), round=0, lane=0, window=at // self.window)

    def upcoming(self, epoch: int, place: Place) -> list[Place]:
        """As Order.upcoming, of the window of `place`'s source."""
        start = (place.window + 1) * self.window
        numbers = self.plan.of(epoch)[start : start + self.window]
        some = [Place(*self.numbering.place(int(number)), round=0) for number in numbers]
        return [one for one in some if one.source == place.source]


def planned(order: Order, numbering: Numbering, plan: EpochPlan, opened: Sequence[OpenShards]) -> Planned:
    """The order of `plan`, for whoever reads in `order` now.

    Raises UserError for a plan of other shards, and for remote ones that are read in parts.
    """
    away = [url for shards in opened for url in shards.urls if is_remote(url) and shards.access.shard_cache is None]
    if away:
        raise UserError(
            f"a plan reads samples in any order, but {plain(away[0], 200)} is remote and read in parts, which would be "
            "fetched again for every sample: give data.remote.shard_cache, or copy the shards"
        )
    own = {f.name: getattr(order, f.name) for f in fields(Order) if f.init and not f.name.startswith("_")}
    made = Planned(**own, plan=plan, numbering=numbering)
    made.check(opened)
    return made


def bound_to(opened: Sequence[OpenShards]) -> str:
    """The checksum (hex) of the shards of a stream: of their names, of what they are, of how many samples they have."""
    facts = [[shards.fingerprints(), list(shards.shards.counts)] for shards in opened]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def drawn(order: Order, numbering: Numbering, epoch: int) -> list[NDArray[np.int64]]:
    """The numbers of the samples that an epoch draws, pass by pass of each source; no pass has one twice."""
    sources = range(len(order.sources))
    return [numbering.firsts[s][shard] + sample for s in sources for shard, sample in passes(order, s, epoch)]


def passes(order: Order, source: int, epoch: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(shard, sample in it), each [n], that an epoch draws from a source, for each pass that it has part in."""
    s, parts = order.sources[source], []
    begun, ended = epoch * s.draws, (epoch + 1) * s.draws
    for round_ in range(begun // s.size, -(-ended // s.size)) if s.draws else ():
        start, stop = max(begun, round_ * s.size), min(ended, (round_ + 1) * s.size)
        parts.append(order.samples_at(source, round_, np.arange(start, stop) - round_ * s.size))
    return parts
