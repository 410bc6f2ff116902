"""Rows of batches: what one process (a worker, or the trainer itself) reads, decodes and tokenizes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from data_pipelines import decode
from data_pipelines.captions import choose_several, identity
from data_pipelines.ledger import FILTERED, Ledger
from data_pipelines.loading.epoch_order import Order, Place, mix
from data_pipelines.remote.fetch import Changed, Unreadable
from data_pipelines.shards.open_shards import OpenShards, RawSample
from data_pipelines.shards.shard_set import is_remote
from vlp.pictures import Limits, Refused

HELD_RECORD_BYTES = 2048  # about what a record and its keys take beside the pixels
Tokenizer = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How samples become rows; the same in every process."""

    captions: Mapping[str, float]
    texts: int
    ids: str
    min_chars: int
    min_side: int
    most_pixels: int
    cache_bytes: int
    drop_budget: float


@dataclass
class Rows:
    """What a process made of its rows of one batch."""

    image: Tensor  # [n, 3, H, W]
    text: Tensor  # [n, L], or [n, K, L] with K captions a row
    keys: tuple[str, ...]
    ids: list[int]
    dropped: list[tuple[int, str, str]] = field(default_factory=list)  # row, reason, shard of each skipped sample


@dataclass(frozen=True)
class _Held:
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
        shelves: Sequence[OpenShards],
        rows: range,
        recipe: Recipe,
        *,
        transform: decode.Transform,
        tokenizer: Tokenizer,
        seed: int,
    ) -> None:
        self.order, self.shelves, self.rows, self.recipe = order, shelves, rows, recipe
        self._transform, self._tokenizer, self._seed = transform, tokenizer, seed
        self.ledger = Ledger()
        self.epoch = 0
        self.shifts: dict[int, int] = {}  # row -> samples it skipped in this epoch
        self._rng = random.Random()
        self._like: Tensor | None = None
        self._cache: dict[tuple[int, int, int], _Held] = {}
        self._cache_left = recipe.cache_bytes
        self._remote = [any(is_remote(url) for url in shelf.urls) for shelf in shelves]
        self._entered: dict[tuple[int, int], tuple[int, int]] = {}
        share = len(rows) / order.global_batch
        self.patience = max(50, min(1000, int(order.samples * share)))

    def part(self, rows: range) -> RowReader:
        """A reader of some of these rows, at the same position."""
        part = RowReader(
            self.order,
            self.shelves,
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
        made = Rows(image, torch.empty(0), (), [])
        texts, keys = [], []
        for i, row in enumerate(self.rows):
            text, key, concept = self._deliver(row, batch, made, made.image[i])
            texts.append(text)
            keys.append(key)
            made.ids.append(concept)
            self.ledger.delivered += 1
        made.text, made.keys = self._tokenized(texts), tuple(keys)
        return made

    def _tokenized(self, texts: Sequence[tuple[str, ...]]) -> Tensor:
        """Token ids [n, L] of n rows; [n, K, L] where each row has K > 1 captions."""
        ids = self._tokenizer([text for row in texts for text in row])
        return ids if self.recipe.texts == 1 else ids.view(len(texts), self.recipe.texts, -1)

    def _deliver(self, row: int, batch: int, made: Rows, out: Tensor) -> tuple[tuple[str, ...], str, int]:
        """The next sample of `row` that can be delivered; those that cannot are counted and skipped for good."""
        while True:
            turn = batch + self.shifts.get(row, 0)
            place = self.order.place(self.epoch, row, turn)
            if self._remote[place.source]:
                self._look_ahead(place)
            try:
                return self._sample(place, mix(self._seed, 4, self.epoch, row, turn), out)
            except _Drop as drop:
                shard = self.shelves[place.source].urls[place.shard]
                self.shifts[row] = self.shifts.get(row, 0) + 1
                self.ledger.drop(str(drop), shard)
                made.dropped.append((row, str(drop), shard))
                self.ledger.check(self.recipe.drop_budget, patience=self.patience)

    def _look_ahead(self, place: Place) -> None:
        """Begin to fetch the window behind this one when a lane enters a window."""
        window = (self.epoch, place.window)
        if self._entered.get((place.source, place.lane)) != window:
            self._entered[place.source, place.lane] = window
            soon = self.order.upcoming(self.epoch, place)
            self.shelves[place.source].expect([(p.shard, p.sample) for p in soon])

    def _sample(self, place: Place, chance: int, out: Tensor) -> tuple[tuple[str, ...], str, int]:
        """(captions, key, concept) of the sample at `place`, its picture in `out`; raises _Drop if there is none."""
        rng = self._rng
        rng.seed(chance)
        known = (place.source, place.shard, place.sample)
        held = self._cache.get(known)
        raw = None if held is not None else self._raw(place)
        record = held.record if held is not None else raw.record  # type: ignore[union-attr]
        said = choose_several(record, self.recipe.captions, self.recipe.texts, rng)
        if not said:
            raise _Drop("undecodable caption" if raw is not None and raw.garbled else "missing caption")
        if min(map(len, said)) < self.recipe.min_chars:
            raise _Drop(FILTERED)
        if raw is not None:
            key = raw.key
            self._picture(known, raw, rng, out)
        else:
            assert held is not None
            key = held.key
            decode.fill_from(out, held.pixels, self._transform, rng)
        return said, key, identity(record, self.recipe.ids) if self.recipe.ids else 0

    def _raw(self, place: Place) -> RawSample:
        try:
            shelf = self.shelves[place.source]
            lost = shelf[place.shard].index.lost
            if place.sample >= len(shelf[place.shard]):  # the manifest promised more than the tar holds
                raise _Drop(max(lost, key=lost.__getitem__, default="truncated tail"))
            return shelf.sample(place.shard, place.sample)
        except Changed:
            raise _Drop("changed shard") from None
        except Unreadable:
            raise _Drop("unreadable shard") from None

    def _picture(self, known: tuple[int, int, int], raw: RawSample, rng: random.Random, out: Tensor) -> None:
        limits = Limits(self.recipe.most_pixels, self.recipe.min_side)
        try:
            if self._cache_left <= 0:
                decode.fill(out, raw.image, self._transform, rng, limits)
                return
            full = decode.pixels(raw.image, limits)
        except Refused as refusal:
            raise _Drop(str(refusal)) from None
        self._cache[known] = _Held(raw.key, full, raw.record)
        self._cache_left -= full.nbytes + HELD_RECORD_BYTES
        decode.fill_from(out, full, self._transform, rng)
