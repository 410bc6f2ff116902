"""Rows of batches: what one process (a worker, or the trainer itself) reads, decodes and tokenizes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipelines import decode
from data_pipelines.captions import choose_several, identity
from data_pipelines.ledger import FILTERED, Ledger
from data_pipelines.loading.epoch_order import Order, Place, mix
from data_pipelines.remote.fetch import Changed, Unreadable
from data_pipelines.settings import Captions, Decoding
from data_pipelines.shards.open_shards import OpenShards, RawSample
from data_pipelines.shards.shard_set import is_remote
from vlp.batch import Batch
from vlp.pictures import Limits, Refused

RECORD_BYTES = 2048  # about what a cached record and its keys take beside the pixels
Tokenizer = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How samples become rows; the same in every process."""

    captions: Captions
    decoding: Decoding
    ids: str
    drop_budget: float
    cache_bytes: int = 0

    @property
    def limits(self) -> Limits:
        """Which pictures are decoded."""
        return Limits(self.decoding.most_pixels, self.decoding.min_side)


@dataclass(frozen=True)
class Rows:
    """What a process made of its rows of one batch."""

    pairs: Batch
    dropped: list[tuple[int, str, str]] = field(default_factory=list)  # row, reason, shard of each skipped sample
    shifts: dict[int, int] = field(default_factory=dict)  # row -> samples it has skipped so far in its epoch

    def packed(self) -> PackedRows:
        """The rows as they pass through a pipe: without the pictures, which lie in memory that both sides have."""
        columns = {f.name: getattr(self.pairs, f.name) for f in fields(Batch) if f.name != "image"}
        arrays = {name: c.numpy() if isinstance(c, Tensor) else c for name, c in columns.items()}
        return PackedRows(arrays, self.dropped, self.shifts)


@dataclass(frozen=True)
class PackedRows:
    """What a worker hands over of its rows of one batch."""

    columns: dict[str, Any]  # every field of Batch but the image, tensors as arrays
    dropped: list[tuple[int, str, str]]
    shifts: dict[int, int]


def joined(parts: Sequence[PackedRows], image: Tensor) -> Rows:
    """The rows of one batch out of the parts of its workers, in their order; `image` [B, 3, H, W] has the pictures.

    Tensors are filled up with zeros at the end of their other dimensions, as far as the longest part needs it.
    """
    columns = {name: _column([part.columns[name] for part in parts]) for name in parts[0].columns}
    dropped = [one for part in parts for one in part.dropped]
    return Rows(Batch(image=image, **columns), dropped, {row: n for part in parts for row, n in part.shifts.items()})


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


class _Drop(Exception):
    """This sample is not delivered, for one of the ledger's reasons."""


class RowReader:
    """Makes the rows it owns, batch after batch. A sample that cannot be delivered gives way to the row's next."""

    def __init__(
        self,
        order: Order,
        sources: Sequence[OpenShards],
        rows: range,
        recipe: Recipe,
        *,
        transform: decode.Transform,
        tokenizer: Tokenizer,
        seed: int,
    ) -> None:
        self.order, self.sources, self.rows, self.recipe = order, sources, rows, recipe
        self._transform, self._tokenizer, self._seed = transform, tokenizer, seed
        self.ledger = Ledger()
        self.epoch = 0
        self.shifts: dict[int, int] = {}  # row -> samples it skipped in this epoch
        self._rng = random.Random()
        self._like: Tensor | None = None
        self._cache: dict[tuple[int, int, int], _Cached] = {}
        self._cache_left = recipe.cache_bytes
        self._remote = [any(is_remote(url) for url in one.urls) for one in sources]
        self._entered: dict[tuple[int, int], tuple[int, int]] = {}
        share = len(rows) / order.global_batch
        self.patience = max(50, min(1000, int(order.samples * share)))

    def part(self, rows: range) -> RowReader:
        """A reader of some of these rows, at the same position."""
        part = RowReader(
            self.order,
            self.sources,
            rows,
            self.recipe,
            transform=self._transform,
            tokenizer=self._tokenizer,
            seed=self._seed,
        )
        part.epoch, part.shifts = self.epoch, {row: n for row, n in self.shifts.items() if row in rows}
        return part

    def probe(self) -> Tensor:
        """A picture as the transform makes them [3, H, W], to learn their size and type."""
        from PIL import Image as pil

        return self._transform(pil.new("RGB", (256, 256)), random.Random(0))

    def read(self, epoch: int, batch: int, image: Tensor | None = None) -> Rows:
        """The rows of one batch; pictures are written into `image` [n, 3, H, W] if it is given.

        Raises DropBudgetExceeded when too much is lost.
        """
        if epoch != self.epoch:
            self.epoch = epoch
            self.shifts.clear()
        if image is None:
            self._like = self._like if self._like is not None else self.probe()
            image = decode.batch_memory(len(self.rows), tuple(self._like.shape), self._like.dtype)
        dropped: list[tuple[int, str, str]] = []
        delivered = [self._deliver(row, batch, dropped, image[i]) for i, row in enumerate(self.rows)]
        texts, keys, concepts = zip(*delivered, strict=True)
        ids = torch.tensor(concepts, dtype=torch.int64) if self.recipe.ids else None
        return Rows(Batch(image, self._tokenized(texts), keys, ids), dropped, dict(self.shifts))

    def _tokenized(self, texts: Sequence[tuple[str, ...]]) -> Tensor:
        """Token ids [n, L] of n rows; [n, K, L] where each row has K > 1 captions."""
        ids = self._tokenizer([text for row in texts for text in row])
        count = self.recipe.captions.texts
        return ids if count == 1 else ids.view(len(texts), count, -1)

    def _deliver(
        self, row: int, batch: int, dropped: list[tuple[int, str, str]], out: Tensor
    ) -> tuple[tuple[str, ...], str, int]:
        """The next sample of `row` that can be delivered; those that cannot are counted and skipped for good."""
        while True:
            turn = batch + self.shifts.get(row, 0)
            place = self.order.place(self.epoch, row, turn)
            if self._remote[place.source]:
                self._look_ahead(place)
            try:
                sample = self._sample(place, mix(self._seed, 4, self.epoch, row, turn), out)
                self.ledger.delivered += 1
                return sample
            except _Drop as drop:
                shard = self.sources[place.source].urls[place.shard]
                self.shifts[row] = self.shifts.get(row, 0) + 1
                self.ledger.drop(str(drop), shard)
                dropped.append((row, str(drop), shard))
                self.ledger.check(self.recipe.drop_budget, patience=self.patience)

    def _look_ahead(self, place: Place) -> None:
        """Begin to fetch the window after this one when a lane enters a window."""
        window = (self.epoch, place.window)
        if self._entered.get((place.source, place.lane)) != window:
            self._entered[place.source, place.lane] = window
            soon = self.order.upcoming(self.epoch, place)
            self.sources[place.source].expect([(p.shard, p.sample) for p in soon])

    def _sample(self, place: Place, chance: int, out: Tensor) -> tuple[tuple[str, ...], str, int]:
        """(captions, key, concept) of the sample at `place`, its picture in `out`; raises _Drop if there is none."""
        rng = self._rng
        rng.seed(chance)
        known = (place.source, place.shard, place.sample)
        cached = self._cache.get(known)
        raw = None if cached is not None else self._raw(place)
        record = cached.record if cached is not None else raw.record  # type: ignore[union-attr]
        said = choose_several(record, self.recipe.captions.weights, self.recipe.captions.texts, rng)
        if not said:
            raise _Drop("undecodable caption" if raw is not None and raw.garbled else "missing caption")
        if min(map(len, said)) < self.recipe.captions.min_chars:
            raise _Drop(FILTERED)
        if raw is not None:
            key = raw.key
            self._picture(known, raw, rng, out)
        else:
            assert cached is not None
            key = cached.key
            decode.fill_from(out, cached.pixels, self._transform, rng)
        return said, key, identity(record, self.recipe.ids) if self.recipe.ids else 0

    def _raw(self, place: Place) -> RawSample:
        try:
            source = self.sources[place.source]
            lost = source[place.shard].index.lost
            if place.sample >= len(source[place.shard]):  # the manifest promises more than the tar holds
                raise _Drop(max(lost, key=lost.__getitem__, default="truncated tail"))
            return source.sample(place.shard, place.sample)
        except Changed:
            raise _Drop("changed shard") from None
        except Unreadable:
            raise _Drop("unreadable shard") from None

    def _picture(self, known: tuple[int, int, int], raw: RawSample, rng: random.Random, out: Tensor) -> None:
        limits = self.recipe.limits
        try:
            if self._cache_left <= 0:
                decode.fill(out, raw.image, self._transform, rng, limits)
                return
            full = decode.pixels(raw.image, limits)
        except Refused as refusal:
            raise _Drop(str(refusal)) from None
        self._cache[known] = _Cached(raw.key, full, raw.record)
        self._cache_left -= full.nbytes + RECORD_BYTES
        decode.fill_from(out, full, self._transform, rng)
