"""Rows of batches: what one process (a worker, or the trainer itself) reads, decodes and tokenizes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipelines import decode
from data_pipelines.captions import concept_id, is_swapped, texts_at
from data_pipelines.ledger import WHOLE_SHARDS, DropBudgetExceeded, Ledger
from data_pipelines.loading.epoch_order import Order, Place, mix
from data_pipelines.loading.numbering import Numbering
from data_pipelines.loading.position import cannot_resume
from data_pipelines.loading.recipe import Drop, Origin, Pair, Recipe
from data_pipelines.remote.patience import Changed, Replaced, Unreadable
from data_pipelines.shards.losses import known
from data_pipelines.shards.open_shards import OpenShards, RawSample
from data_pipelines.shards.shard_set import is_remote
from vlp.batch import Batch
from vlp.errors import UserError
from vlp.pictures import Refused

SWAPS = 64  # others that are asked for their captions, where a sample is to have those of another concept
RECORD_BYTES = 2048  # about what a cached record and its keys take beside the pixels


@dataclass(frozen=True)
class Rows:
    """What a process made of its rows of one batch."""

    pairs: Batch
    dropped: list[tuple[int, str, str]] = field(default_factory=list)  # row, reason, shard of each that is lost
    shifts: dict[int, int] = field(default_factory=dict)  # row -> samples it has skipped so far in its epoch
    again: int = 0  # pairs that came in this epoch before

    def packed(self) -> PackedRows:
        """The rows as they pass through a pipe: without the pictures, which lie in memory that both sides have."""
        columns = {f.name: getattr(self.pairs, f.name) for f in fields(Batch) if f.name != "image"}
        arrays = {name: c.numpy() if isinstance(c, Tensor) else c for name, c in columns.items()}
        return PackedRows(arrays, self.dropped, self.shifts, self.again)


@dataclass(frozen=True)
class PackedRows:
    """What a worker hands over of its rows of one batch."""

    columns: dict[str, Any]  # every field of Batch but the image, tensors as arrays
    dropped: list[tuple[int, str, str]]
    shifts: dict[int, int]
    again: int


def joined(parts: Sequence[PackedRows], image: Tensor) -> Rows:
    """The rows of one batch out of the parts of its workers, in their order; `image` [B, 3, H, W] has the pictures.

    Tensors are filled up with zeros at the end of their other dimensions, as far as the longest part needs it.
    """
    columns = {name: _column([part.columns[name] for part in parts]) for name in parts[0].columns}
    dropped = [one for part in parts for one in part.dropped]
    shifts = {row: n for part in parts for row, n in part.shifts.items()}
    return Rows(Batch(image=image, **columns), dropped, shifts, sum(part.again for part in parts))


def _column(parts: Sequence[Any]) -> Any:
    """One field of a batch out of those of its parts: arrays are joined to a tensor, tuples to a tuple."""
    if not isinstance(parts[0], np.ndarray):
        return parts[0] if parts[0] is None else tuple(one for part in parts for one in part)
    rest = np.max([part.shape[1:] for part in parts], axis=0, initial=0).astype(int)
    whole = torch.from_numpy(np.zeros((sum(map(len, parts)), *rest), parts[0].dtype))
    start = 0
    for part in parts:
        inside = (slice(start, start + len(part)), *map(slice, part.shape[1:]))
        whole[inside] = torch.from_numpy(part)
        start += len(part)
    return whole


@dataclass(frozen=True)
class _Cached:
    """A decoded picture and its record, kept in memory."""

    key: str
    pixels: decode.Pixels
    record: Mapping[str, object]


class RowReader:
    """Makes the rows it owns, batch after batch. A sample that cannot be delivered gives way to the row's next."""

    def __init__(self, order: Order, sources: Sequence[OpenShards], rows: range, recipe: Recipe) -> None:
        self.order, self.sources, self.rows, self.recipe = order, sources, rows, recipe
        self.numbering = Numbering.of([one.urls for one in sources], [one.counts for one in order.sources])
        self.ledger = Ledger()
        self.epoch = 0
        self.resumed = False  # a part of the run was before, so that a shard that was replaced since is an error
        self._epochs = 1  # that this reader has begun
        self._vain = 0  # samples that could not be delivered since one last was
        self._vainly: set[tuple[str, str]] = set()  # reason and shard of them
        self.shifts: dict[int, int] = {}  # row -> samples it skipped in this epoch
        self._rng = random.Random()
        self._cache: dict[tuple[int, int, int], _Cached] = {}
        self._cache_left = recipe.cache_bytes
        self._remote = [any(is_remote(url) for url in one.urls) for one in sources]
        self._entered: dict[tuple[int, int], tuple[int, int]] = {}
        share = len(rows) / order.global_batch
        self.patience = max(50, min(1000, int(order.samples * share)))

    def part(self, rows: range) -> RowReader:
        """A reader of some of these rows, at the same position."""
        part = RowReader(self.order, self.sources, rows, self.recipe)
        part.resumed = self.resumed
        part.epoch, part.shifts = self.epoch, {row: n for row, n in self.shifts.items() if row in rows}
        return part

    def read(self, epoch: int, batch: int, image: Tensor | None = None) -> Rows:
        """The rows of one batch; pictures are written into `image` [n, 3, H, W] if it is given.

        Raises DropBudgetExceeded when too much is lost.
        """
        if epoch != self.epoch:
            self.epoch = epoch
            self._epochs += 1
            self.shifts.clear()
        if image is None:
            image = self.recipe.memory(len(self.rows))
        dropped: list[tuple[int, str, str]] = []
        again = self.ledger.again
        pairs = [self._deliver(row, batch, dropped, image[i]) for i, row in enumerate(self.rows)]
        return Rows(self.recipe.batch(image, pairs), dropped, dict(self.shifts), self.ledger.again - again)

    def _deliver(self, row: int, batch: int, dropped: list[tuple[int, str, str]], out: Tensor) -> Pair:
        """The next sample of `row` that can be delivered; those that cannot are skipped for good.

        A lost sample is counted where it has its own place in the epoch, not where it was to take another one's.
        """
        while True:
            turn = batch + self.shifts.get(row, 0)
            place = self.order.place(self.epoch, row, turn)
            if self._remote[place.source]:
                self._look_ahead(place)
            try:
                pair = self._sample(place, mix(self.recipe.seed, 4, self.epoch, row, turn), out)
                self.ledger.delivered += 1
                self.ledger.again += self.order.again(row, turn)
                self._vain = 0
                return pair
            except Drop as drop:
                shard = self.sources[place.source].urls[place.shard]
                self.shifts[row] = self.shifts.get(row, 0) + 1
                if not self.order.again(row, turn):
                    self.ledger.drop(str(drop), shard)
                    dropped.append((row, str(drop), shard))
                self._vainly = {*(self._vainly if self._vain else ()), (str(drop), shard)}
                self._vain += 1
                self._check()

    def _check(self) -> None:
        """Raise DropBudgetExceeded if too much is lost, or if this goes on without end."""
        self.ledger.check(self.recipe.drop_budget, patience=self.patience, promised=self.order.samples * self._epochs)
        if self.ledger.delivered == 0 and self._vain >= min(self.patience, 100):
            few = min(3, sum(len(one.urls) for one in self.sources))  # a shard that is lost as a whole is no sign
            if any(why not in WHOLE_SHARDS for why, _ in self._vainly) or len({s for _, s in self._vainly}) >= few:
                raise DropBudgetExceeded(self.ledger.nothing(self._vain))
        if self._vain > 2 * self.order.samples:
            last = f"none of the last {self._vain:,} samples could be delivered, and there are no others"
            every = self.ledger.nothing(self._vain)
            raise DropBudgetExceeded(f"{last}\n{self.ledger.table()}" if self.ledger.delivered else every)

    def _look_ahead(self, place: Place) -> None:
        """Begin to fetch the window after this one when a lane enters a window."""
        window = (self.epoch, place.window)
        if self._entered.get((place.source, place.lane)) != window:
            self._entered[place.source, place.lane] = window
            soon = self.order.upcoming(self.epoch, place)
            self.sources[place.source].expect([(p.shard, p.sample) for p in soon])

    def _sample(self, place: Place, chance: int, out: Tensor) -> Pair:
        """The sample at `place`, its picture in `out`; raises Drop if there is none."""
        rng = self._rng
        rng.seed(chance)
        known = (place.source, place.shard, place.sample)
        shard = self.sources[place.source].urls[place.shard]
        number = self.numbering.number(*known)
        drawn = mix(self.recipe.seed, 7, self.epoch, number) if self.recipe.negatives.count else 0
        cached = self._cache.get(known)
        if cached is not None:
            origin = Origin(cached.key, shard, drawn, number)
            pair = self.recipe.pair(cached.record, origin, rng, garbled=False)
            self.recipe.show_decoded(out, cached.pixels, rng)
            return pair
        raw = self._with_captions(place, self._raw(place), number)
        origin = Origin(raw.key, shard, drawn, number)
        pair = self.recipe.pair(raw.record, origin, rng, garbled=raw.garbled)
        self._picture(known, raw, rng, out)
        return pair

    def _with_captions(self, place: Place, raw: RawSample, number: int) -> RawSample:
        """The sample, or its picture with all that is known of another one of its shard, if that is its lot.

        It is the same other one in every epoch, of another concept; raises Drop where there is none.
        """
        recipe = self.recipe
        share = recipe.captions.swapped
        if not share or not is_swapped(raw.key, share, recipe.seed):
            return raw
        own, inside = concept_id(raw.record, recipe.ids), len(self.sources[place.source][place.shard])
        for attempt in range(SWAPS):
            other = self._raw(replace(place, sample=mix(recipe.seed, 8, number, attempt) % inside))
            said = any(texts_at(other.record, path) for path, weight in recipe.captions.weights.items() if weight)
            if said and concept_id(other.record, recipe.ids) != own:
                return replace(raw, record=other.record, garbled=other.garbled)
        raise Drop("missing caption")

    def _raw(self, place: Place) -> RawSample:
        try:
            source = self.sources[place.source]
            if place.sample >= len(source[place.shard]):  # the manifest promises more than the tar holds
                lost = known(source[place.shard].index, source.shards.counts[place.shard])
                raise Drop(max(lost, key=lost.__getitem__, default="truncated tail"))
            return source.sample(place.shard, place.sample)
        except Replaced as error:
            if self.resumed:
                raise UserError(cannot_resume(str(error))) from None
            raise Drop("changed shard") from None
        except Changed:
            raise Drop("changed shard") from None
        except Unreadable:
            raise Drop("unreadable shard") from None

    def _picture(self, known: tuple[int, int, int], raw: RawSample, rng: random.Random, out: Tensor) -> None:
        try:
            if self._cache_left <= 0:
                self.recipe.show(out, raw.image, rng)
                return
            full = decode.pixels(raw.image, self.recipe.limits)
        except Refused as refusal:
            raise Drop(str(refusal)) from None
        self._cache[known] = _Cached(raw.key, full, raw.record)
        self._cache_left -= full.nbytes + RECORD_BYTES
        self.recipe.show_decoded(out, full, rng)
