"""Shards to batches: an order fixed by (seed, epoch) alone, exact resume on any layout, nothing lost in silence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from data_pipelines.captions import found
from data_pipelines.decode import Transform
from data_pipelines.ledger import Ledger
from data_pipelines.loading.epoch_order import Last, Order, OrderSource
from data_pipelines.loading.mixture import draws_by_factor, draws_by_weight
from data_pipelines.loading.position import STATE_FORMAT, fingerprint
from data_pipelines.loading.position import merge_states as merge_states
from data_pipelines.loading.rows import Recipe, RowReader, Tokenizer
from data_pipelines.loading.workers import Pool
from data_pipelines.remote.fetch import BlockStore, Patience, Unreadable
from data_pipelines.remote.shard_cache import ShardCache
from data_pipelines.sample import Sample
from data_pipelines.shards.open_shards import Access, OpenShards
from data_pipelines.shards.shard_set import UNKNOWN, ShardSet
from vlp.batch import Batch
from vlp.errors import UserError


@dataclass(frozen=True)
class Stream:
    """What to read and how; `open` gives the batches."""

    shards: str = ""
    """folder with a manifest, glob, brace range or URL of tars; several joined by `::`; or bundled:emoji/train"""
    mixture: dict[str, float] = field(default_factory=dict)
    """instead of `shards`: specification -> its part of the epoch"""
    mixture_by: Literal["weight", "factor"] = "weight"
    """weight: exact shares of the epoch; factor: how often each source is passed through in an epoch"""
    epoch_samples: int = 0
    """samples of an epoch of a mixture by weight; 0: as many as the sources hold together"""
    captions: dict[str, float] = field(default_factory=lambda: {"txt": 1.0})
    """which caption is said, drawn by these weights among those a sample has: txt, en, zh, tags.en, any .json path"""
    texts: int = 1
    """captions said of a picture at a time; more than one are drawn without repetition, as far as there are others"""
    ids: str = "concept"
    """field of the .json that says which samples mean the same (else the first caption does); empty: no ids"""
    lanes: int = 64
    """most lanes; at least ranks x workers, so that no part of a shard is read twice"""
    window: int = 512
    """samples a lane shuffles among; lanes x window is the whole buffer"""
    last: Last = "wrap"
    """the last, incomplete batch: wrap fills it with samples of the same epoch again, drop leaves it out"""
    cache_bytes: int = 0
    """memory for decoded pictures, bytes in each process; 0: none are kept"""
    workers: int = 0
    """processes that decode; 0: this one does"""
    prefetch: int = 3
    """batches that workers make ahead"""
    start_method: Literal["forkserver", "spawn", "fork"] = "forkserver"
    """how workers are started; fork is quickest, and unsafe beside threads"""
    pin: bool = False
    """put batches into pinned memory, from which copies to the GPU do not block"""
    min_chars: int = 0
    """captions shorter than this are filtered out"""
    min_side: int = 0
    """pictures whose shorter side has fewer pixels are filtered out"""
    most_pixels: int = 64_000_000
    """pictures that claim more pixels are refused before they are decoded"""
    drop_budget: float = 0.01
    """largest share of samples that may be lost (filtered ones apart) before the run is stopped with a table"""
    index_cache: str = ""
    """folder of the tars' indexes that cannot lie beside them; empty: $VLP_CACHE/index"""
    read_ahead_bytes: int = 1 << 30
    """memory for parts of remote shards, bytes in each process; holds lanes x window samples, twice over"""
    request_seconds: float = 60.0
    """deadline of one request to a remote store (up to 4 MiB); what it brought too little of is asked for in halves"""
    request_attempts: int = 8
    """requests in a row that may fail before a sample counts as unreadable"""
    shard_cache: str = ""
    """folder to keep remote shards in, whole and checked; empty: they are read in parts and not kept"""
    shard_cache_bytes: int = 1 << 36
    """most bytes of that folder; shards that were not read for longest go first"""

    def open(
        self,
        *,
        transform: Transform,
        tokenizer: Tokenizer,
        global_batch: int,
        rank: int = 0,
        size: int = 1,
        seed: int = 0,
        state: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> Loader:
        """The batches of rank `rank` of `size`, from the beginning or from a `state`.

        transform(picture, rng) -> [3, H, W] uint8; tokenizer(texts) -> [B, L] int64, 0-padded. `state` is what
        `state_dict` gave on every rank of the earlier run (a list of them, or `merge_states` of it), on any layout.
        Raises UserError for shards that are not found, a batch that ranks cannot share, a state of another stream.
        """
        if not 0 <= rank < size or global_batch % size:
            raise UserError(f"a global batch of {global_batch} cannot be shared by {size} ranks (this is rank {rank})")
        shelves, sources, lost = _sources(self, self._access())
        order = Order(sources, global_batch, seed, self.lanes, self.window, self.last)
        recipe = Recipe(
            self.captions,
            self.texts,
            self.ids,
            self.min_chars,
            self.min_side,
            self.most_pixels,
            self.cache_bytes,
            self.drop_budget,
        )
        for shelf, source in zip(shelves, sources, strict=True):
            held = min(
                self.window * order.lanes, source.draws
            )  # samples in all windows; a process has its part of them
            shelf.check_read_ahead(held / size / max(1, self.workers))
        own = range(rank * global_batch // size, (rank + 1) * global_batch // size)
        reader = RowReader(order, shelves, own, recipe, transform=transform, tokenizer=tokenizer, seed=seed)
        loader = Loader(reader, fingerprint(order, shelves), self)
        if rank == 0:
            loader.ledger.merge(lost)
            loader.ledger.check(self.drop_budget, patience=1000)
        if state is not None:
            loader.restore(state if isinstance(state, Mapping) else merge_states(state), first=rank == 0)
        return loader

    def _access(self) -> Access:
        return Access(
            index_cache=Path(self.index_cache) if self.index_cache else None,
            shard_cache=ShardCache(Path(self.shard_cache), self.shard_cache_bytes) if self.shard_cache else None,
            patience=Patience(attempts=self.request_attempts, deadline=self.request_seconds),
            blocks=BlockStore(self.read_ahead_bytes),
        )


def _sources(stream: Stream, access: Access) -> tuple[list[OpenShards], tuple[OrderSource, ...], Ledger]:
    """The shelf of each source, how many samples an epoch draws from it, and what its indexes say is lost."""
    if bool(stream.shards) == bool(stream.mixture):
        raise UserError("a stream needs either `shards` or `mixture`" + (", not both" if stream.shards else ""))
    shelves, counts, lost = [], [], Ledger()
    for spec in stream.mixture or {stream.shards: 1.0}:
        shards = ShardSet.open(spec)
        shelf = OpenShards(shards, access)
        shelves.append(shelf)
        counts.append(np.array(_counted(shards, shelf, lost), np.int64))
    sizes = [int(c.sum()) for c in counts]
    if stream.mixture_by == "weight" and stream.mixture:
        draws = draws_by_weight(sizes, list(stream.mixture.values()), stream.epoch_samples or sum(sizes))
    else:
        draws = draws_by_factor(sizes, list(stream.mixture.values()) or [1.0])
    return shelves, tuple(OrderSource(c, d) for c, d in zip(counts, draws, strict=True)), lost


def _counted(shards: ShardSet, shelf: OpenShards, lost: Ledger) -> list[int]:
    """Samples of each shard, from the manifest or from the shard's index; what the index lost goes to the ledger."""
    counts = []
    for i, count in enumerate(shards.counts):
        if count == UNKNOWN:
            try:
                index = shelf[i].index
            except Unreadable as error:
                raise UserError(f"{shards.urls[i]} cannot be read, and no manifest tells its size: {error}") from None
            count = len(index)
            for reason, n in index.lost.items():
                lost.drop(reason, shards.urls[i], n)
        counts.append(count)
    return counts


class Loader:
    """The batches of one rank, for ever; epoch follows epoch."""

    def __init__(self, reader: RowReader, fingerprint: Mapping[str, Any], stream: Stream) -> None:
        self._reader, self._stream = reader, stream
        self._fingerprint = dict(fingerprint)
        self._pool: Pool | None = None
        self._shifts: dict[int, int] = {}  # of the last batch handed out
        self.epoch, self.batch = 0, 0  # of the next batch
        self.samples_per_epoch = reader.order.samples
        self.batches_per_epoch = reader.order.batches
        self.ledger = Ledger()
        """what this rank delivered and what it could not"""

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the present position on; [B / ranks] rows each. Raises DropBudgetExceeded."""
        while True:
            yield self._next()

    def _next(self) -> Batch:
        if self._stream.workers:
            rows, self._shifts = self._workers().next()
            self.ledger.restarts += self._workers().died()
        else:
            rows = self._reader.read(self.epoch, self.batch)
            self._shifts = dict(self._reader.shifts)
        self.ledger.delivered += len(rows.keys)
        for _, reason, shard in rows.dropped:
            self.ledger.drop(reason, shard)
        self.ledger.check(self._stream.drop_budget, patience=self._reader.patience)
        self.batch += 1
        if self.batch == self.batches_per_epoch:
            self.epoch, self.batch, self._shifts = self.epoch + 1, 0, {}
        ids = torch.tensor(rows.ids, dtype=torch.int64) if self._stream.ids else None
        if self._stream.pin:
            return Batch(rows.image.pin_memory(), rows.text.pin_memory(), rows.keys, ids)
        return Batch(rows.image, rows.text, rows.keys, ids)

    def _workers(self) -> Pool:
        if self._pool is None:
            rows, n = self._reader.rows, min(self._stream.workers, len(self._reader.rows))
            cuts = [rows.start + w * len(rows) // n for w in range(n + 1)]
            parts = [self._reader.part(range(a, b)) for a, b in pairwise(cuts)]
            self._pool = Pool(
                parts,
                start=(self.epoch, self.batch),
                prefetch=max(1, self._stream.prefetch),
                method=self._stream.start_method,
            )
        return self._pool

    def close(self) -> None:
        """Stop the workers, if there are any; the position stays, and iterating starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
            self._reader.epoch, self._reader.shifts = self.epoch, dict(self._shifts)

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch handed out, as plain JSON values; collect those of all ranks to resume."""
        return {
            "format": STATE_FORMAT,
            "order": self._fingerprint,
            "epoch": self.epoch,
            "batch": self.batch,
            "shifts": [list(s) for s in sorted(self._shifts.items())],
            "rows": [[self._reader.rows.start, self._reader.rows.stop]],
            "ledger": self.ledger.state(),
        }

    def restore(self, state: Mapping[str, Any], *, first: bool) -> None:
        """Go to the position of a merged state; the earlier ledger is carried on by the `first` rank.

        Raises UserError if the state is of another stream, or lacks the rows of this rank.
        """
        if state.get("format") != STATE_FORMAT:
            raise UserError(f"the stream state has format {state.get('format')!r}, expected {STATE_FORMAT!r}")
        for name, now in self._fingerprint.items():
            then = state["order"].get(name)
            if then != now:
                raise UserError(
                    f"the stream cannot resume: its {name} was {then} and is {now}, which changes the order; "
                    "restore it, or start without the stream's state"
                )
        covered = {row for start, stop in state["rows"] for row in range(start, stop)}
        if not covered.issuperset(self._reader.rows):
            raise UserError(
                "the stream state lacks rows of this rank: collect state_dict() of every rank when saving, "
                "and give the list (or merge_states of it) when opening"
            )
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])
        self._shifts = {row: n for row, n in state["shifts"] if row in self._reader.rows}
        self._reader.epoch, self._reader.shifts = self.epoch, dict(self._shifts)
        own = [[self._reader.rows.start, self._reader.rows.stop]]
        if first or [list(r) for r in state["rows"]] == own:
            self.ledger = Ledger.of(state["ledger"])


def read_samples(spec: str, *, skip: Ledger | None = None) -> Iterator[Sample]:
    """Every sample of `spec` once, in the order of the tars: for evaluation, embedding and looking.

    What cannot be read is counted in `skip`; without one it raises UserError, so that nothing is lost unseen.
    """
    shards = ShardSet.open(spec)
    shelf = OpenShards(shards, Access())
    for i, url in enumerate(shards.urls):
        read = 0
        try:
            shard = shelf[i]
            lost = dict(shard.index.lost)
            missing = shards.counts[i] - len(shard) if shards.counts[i] != UNKNOWN else 0
            if missing > sum(lost.values()):
                lost["truncated tail"] = lost.get("truncated tail", 0) + missing - sum(lost.values())
            for reason, n in lost.items():
                _lose(skip, reason, url, n)
            for read in range(len(shard)):
                raw = shard.sample(read)
                record = dict(raw.record)
                captions, txt = _captions(record), record.pop("txt", "")
                if skip is not None:
                    skip.delivered += 1
                yield Sample(raw.key, raw.image, raw.image_format, captions, record, txt)
        except Unreadable as error:
            _lose(skip, "unreadable shard", f"{url} ({error})", max(1, shards.counts[i] - read))


def _captions(record: dict[str, Any]) -> dict[str, str]:
    """language -> its first caption; takes them out of `record`, and leaves all of them where there are several."""
    held = record.get("captions")
    languages = held if isinstance(held, Mapping) and held else ("en",)
    named = {lang: texts for lang in languages if (texts := found(record, lang))}
    if isinstance(held, Mapping):
        record.pop("captions")
    if several := {lang: texts for lang, texts in named.items() if len(texts) > 1}:
        record["all_captions"] = several
    text = record.get("txt", "")
    return {lang: texts[0] for lang, texts in named.items()} or ({"en": text} if text else {})


def _lose(skip: Ledger | None, reason: str, shard: str, count: int) -> None:
    if skip is None:
        raise UserError(f"{shard}: {count} samples cannot be delivered ({reason}); check it with `vlp shards verify`")
    skip.drop(reason, shard, count)
