"""Shards to batches: an order fixed by (seed, epoch) alone, exact resume on any layout, nothing lost in silence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_pipelines.captions import is_swapped
from data_pipelines.decode import Transform
from data_pipelines.ledger import Ledger
from data_pipelines.loading.epoch_order import Last, Order, OrderSource
from data_pipelines.loading.loader import Loader
from data_pipelines.loading.mixture import draws_by_factor, draws_by_weight
from data_pipelines.loading.numbering import Numbering
from data_pipelines.loading.pipeline import Pipeline, PipelineLoader
from data_pipelines.loading.planned import EpochPlan, planned
from data_pipelines.loading.position import cannot_resume, merge_states, order_facts
from data_pipelines.loading.recipe import Recipe, Tokenizer
from data_pipelines.loading.rows import RowReader
from data_pipelines.negatives import Negatives
from data_pipelines.negatives.none import NoNegatives
from data_pipelines.remote.fetch import BlockStore, Patience, Unreadable
from data_pipelines.remote.patience import Replaced
from data_pipelines.remote.shard_cache import ShardCache
from data_pipelines.sample import Sample
from data_pipelines.settings import Captions, Decoding, Remote, Workers
from data_pipelines.shards.losses import estimated
from data_pipelines.shards.open_shards import Access, OpenShards
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import UNKNOWN, ShardSet
from vlp.config import COMMON, MAY_CHANGE
from vlp.config.bounds import AtLeastZero, Count, Share, Whole
from vlp.errors import UserError

LACKING = {
    "ids": "an id for each pair, but data.ids is empty: name the field of the .json that holds it",
    "numbers": "the number of each sample, but samples of a pipeline of your own (data.source) have no place that "
    "would stay theirs in every epoch: read them from data.shards",
    "weights": "a weight for each pair, but data.weights is empty: name the field of the .json that holds it",
    "negatives": "wrong captions of each picture, but there are none: choose data.negatives.name, such as swap",
    "captions": "several captions of each picture, but data.captions.texts is 1: set it to 2 or more",
    "views": "several views of each picture, but data.views is 1: set it to 2 or more",
}
"""What a batch has, by its name in Objective.needs: how to say that it does not"""
State = Mapping[str, Any] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Stream:
    """What to read and how; `open` gives the batches."""

    shards: Annotated[str, COMMON] = ""
    """folder with a manifest, glob, brace range or URL of tars; several joined by `::`; or bundled:emoji/train"""
    source: Annotated[str, COMMON] = ""
    """instead of `shards`: module:function, which returns a webdataset pipeline or any iterable of samples"""
    mixture: Mapping[str, AtLeastZero] = field(default_factory=dict)
    """instead of `shards`: specification -> its part of the epoch"""
    mixture_by: Literal["weight", "factor"] = "weight"
    """weight: exact shares of the epoch; factor: how often each source is passed through in an epoch"""
    epoch_samples: Whole = 0
    """samples of an epoch of a mixture by weight; 0: as many as the sources have together"""
    captions: Captions = field(default_factory=Captions)
    """which captions are said of a picture"""
    ids: Annotated[str, COMMON] = "concept"
    """field of the .json that says which samples mean the same (else the first caption does); empty: no ids"""
    weights: str = ""
    """field of the .json that says how much a pair counts in the loss, a number of 0 or more; empty: all alike"""
    negatives: Negatives = field(default_factory=NoNegatives)
    """how captions are made that are nearly right, for objectives that compare a picture with them"""
    views: Count = 1
    """views of each picture in a batch, each cropped and changed by itself; a step encodes them all"""
    lanes: Count = 64
    """most lanes; at least ranks x workers, so that no part of a shard is read twice"""
    window: Count = 512
    """samples a lane shuffles among; lanes x window is the whole buffer"""
    last: Last = "wrap"
    """the last, incomplete batch: wrap fills it with samples of the same epoch again, drop leaves it out"""
    drop_budget: Annotated[Share, COMMON, MAY_CHANGE] = 0.01
    """largest share of samples that may be lost (filtered ones apart) before the run is stopped with a table"""
    verify: Annotated[Literal["none", "size", "sha256"], MAY_CHANGE] = "size"
    """what of a shard is compared with its manifest when it is opened; sha256 reads it through, once"""
    decoding: Decoding = field(default_factory=Decoding)
    """which pictures are decoded"""
    remote: Annotated[Remote, MAY_CHANGE] = field(default_factory=Remote)
    """how bytes of object stores are had"""
    workers: Annotated[Workers, MAY_CHANGE] = field(default_factory=Workers)
    """who reads and decodes, and how far ahead"""

    @property
    def names(self) -> tuple[str, ...]:
        """What is read, as it was specified."""
        return tuple(self.mixture) or (self.shards or self.source,)

    def sources(self) -> OpenSources | Pipeline:
        """The data, opened: for `open`, and for whoever else reads them in this process.

        Raises UserError for shards that are not found, and for weights that make no mixture.
        """
        given = [name for name in ("shards", "source", "mixture") if getattr(self, name)]
        if len(given) > 1:
            raise UserError(f"data.{given[0]} and data.{given[1]} are both given, but only one can be read: empty one")
        if self.source:
            if self.workers.count:
                raise UserError(
                    f"data.workers.count is {self.workers.count}, but the pipeline of data.source is read by the "
                    "trainer's own process: set it to 0, and let the pipeline have workers of its own"
                )
            if self.captions.swapped:
                raise UserError(
                    f"data.captions.swapped is {self.captions.swapped:g}, but a pipeline of your own (data.source) "
                    "gives no other sample whose captions could be said: read from data.shards"
                )
            return Pipeline(self.source)
        share = self.captions.swapped
        note = f"ON PURPOSE, {share:.0%} of the pictures are given another one's captions (data.captions.swapped)"
        access, lost = self._access(), Ledger()
        opened = tuple(OpenShards(ShardSet.open(spec), access) for spec in self.mixture or (self.shards,))
        counts = [np.array(_counted(shards, lost), np.int64) for shards in opened]
        sizes, weights = [int(c.sum()) for c in counts], list(self.mixture.values()) or [1.0]
        if self.mixture_by == "weight" and self.mixture:
            draws = draws_by_weight(sizes, weights, self.epoch_samples or sum(sizes))
        else:
            draws = draws_by_factor(sizes, weights)
        order = tuple(OrderSource(c, d) for c, d in zip(counts, draws, strict=True))
        return OpenSources(opened, order, lost, note if share else "")

    def refuse_equal_views(self, *, varied: bool) -> None:
        """Raise UserError for several views where nothing (no random crop, no augmentation) makes them differ."""
        if self.views > 1 and not varied:
            raise UserError(
                f"data.views is {self.views}, but all views of a picture would be the same: set crop to random crops, "
                "such as 0.5 1, or choose augment.name"
            )

    def lacks(self, name: str) -> str:
        """Why batches do not have what an objective needs, and what to do; empty where they have it.

        `name` is one of Objective.needs; of what is no affair of the stream it says nothing.
        """
        here = {"ids": bool(self.ids), "numbers": not self.source, "weights": bool(self.weights)}
        here |= {"negatives": bool(self.negatives.count), "captions": self.captions.texts > 1, "views": self.views > 1}
        return "" if here.get(name, True) else LACKING[name]

    def open(
        self,
        *,
        transform: Transform,
        tokenizer: Tokenizer,
        global_batch: int,
        rank: int = 0,
        size: int = 1,
        seed: int = 0,
        state: State | None = None,
        sources: OpenSources | Pipeline | None = None,
        plan: EpochPlan | None = None,
        teacher: Tokenizer | None = None,
    ) -> Loader | PipelineLoader:
        """The batches of rank `rank` of `size`, from the beginning or from a `state`.

        transform(picture, rng) -> [3, H, W] uint8; tokenizer(texts) -> [B, L] int64, 0-padded. `state` is what
        `state_dict` gave on every rank of the earlier run (a list of them, or `merge_states` of it), on any layout.
        `sources`: this stream's, if they are open; `plan`: of the state's epoch; `teacher`: tokenizer of teacher_text.
        Raises UserError for shards that are not found, a batch that ranks cannot share, a state of another stream.
        """
        if not 0 <= rank < size or global_batch % size:
            raise UserError(f"a global batch of {global_batch} cannot be shared by {size} ranks (this is rank {rank})")
        opened = sources or self.sources()
        recipe = self._recipe(transform, tokenizer, seed=seed, teacher=teacher)
        loader: Loader | PipelineLoader
        if isinstance(opened, Pipeline):
            loader = PipelineLoader(opened, recipe, global_batch=global_batch, rank=rank, size=size)
        else:
            own = range(rank * global_batch // size, (rank + 1) * global_batch // size)
            order = self._order(opened, global_batch, seed, plan)
            loader = self._loader(opened, recipe, own, order, opened.lost if rank == 0 else Ledger())
        if state is not None:
            if isinstance(opened, OpenSources):
                opened.refuse_replaced()
            loader.restore(state if isinstance(state, Mapping) else merge_states(state), first=rank == 0)
        return loader

    def _order(self, opened: OpenSources, batch: int, seed: int, plan: EpochPlan | None) -> Order:
        """The order of batches; of a plan, if there is one. Raises UserError for a plan of other shards."""
        order = Order(opened.order, batch, seed, self.lanes, self.window, self.last)
        return order if plan is None else planned(order, opened.numbering, plan, opened.shards)

    def _recipe(self, transform: Transform, tokenizer: Tokenizer, *, seed: int, teacher: Tokenizer | None) -> Recipe:
        """How samples become pairs."""
        return Recipe(
            captions=self.captions,
            decoding=self.decoding,
            ids=self.ids,
            weights=self.weights,
            negatives=self.negatives,
            views=self.views,
            drop_budget=self.drop_budget,
            cache_bytes=self.workers.cache_bytes,
            transform=transform,
            tokenizer=tokenizer,
            seed=seed,
            teacher=teacher,
        )

    def _loader(self, opened: OpenSources, recipe: Recipe, own: range, order: Order, lost: Ledger) -> Loader:
        """The loader of the rows `own`. Raises UserError if the memory for remote shards is too small."""
        for shards, source in zip(opened.shards, opened.order, strict=True):
            inside = min(self.window * order.lanes, source.draws)  # samples in all windows; a process has its part
            shards.check_read_ahead(inside * len(own) / order.global_batch / max(1, self.workers.count))
        reader = RowReader(order, opened.shards, own, recipe)
        return Loader(reader, order_facts(order, opened.shards), self.workers, lost)

    def _access(self) -> Access:
        remote = self.remote
        return Access(
            index_cache=Path(remote.index_cache) if remote.index_cache else None,
            shard_cache=ShardCache(Path(remote.shard_cache), remote.shard_cache_bytes) if remote.shard_cache else None,
            patience=Patience(attempts=remote.request_attempts, deadline=remote.request_seconds),
            blocks=BlockStore(remote.read_ahead_bytes),
            verify=self.verify,
        )


@dataclass(frozen=True)
class OpenSources:
    """The shards of a stream, opened: one or more sources, what an epoch draws of each, and what is lost already."""

    shards: tuple[OpenShards, ...]
    order: tuple[OrderSource, ...]
    lost: Ledger
    """what the indexes of shards without a manifest say cannot be delivered"""
    note: str = ""
    """what a user should know of them"""

    def samples(self, *, skip: Ledger) -> Iterator[Sample]:
        """Every sample once, source by source, in the order of the tars; what cannot be read is counted in `skip`."""
        for shards in self.shards:
            try:
                yield from read_samples(shards, skip=skip)
            finally:
                shards.access.blocks.clear()  # what was read in passing is not what the batches need first

    def refuse_replaced(self) -> None:
        """Raise UserError for a local shard that is not the one any more that its manifest lists, and name it."""
        try:
            for shards in self.shards:
                shards.look_at_sizes()
        except Replaced as error:
            raise UserError(cannot_resume(str(error))) from None

    @cached_property
    def numbering(self) -> Numbering:
        """Which sample has which number, in every epoch."""
        return Numbering.of([one.urls for one in self.shards], [one.counts for one in self.order])

    def swapped(self, share: float, seed: int) -> NDArray[np.bool_]:
        """[total] for each number whether data.captions.swapped of `share` gives that sample another one's captions.

        Samples of a shard that cannot be read count as left alone, for nobody trains on them.
        """
        numbering = self.numbering
        truth = np.zeros(numbering.total, np.bool_)
        for start, (source, shard) in zip(numbering.starts.tolist(), numbering.shards.tolist(), strict=True):
            with contextlib.suppress(Unreadable):
                keys = self.shards[source][shard].index.keys
                truth[start : start + len(keys)] = [is_swapped(key, share, seed) for key in keys]
        return truth

    @property
    def sha256(self) -> tuple[str, ...]:
        """The checksums of all tars; "" for one that no manifest lists."""
        return tuple(one for shards in self.shards for one in shards.shards.sha256)


def _counted(opened: OpenShards, lost: Ledger) -> list[int]:
    """Samples of each shard, from the manifest or from the shard's index; what the index lost goes to the ledger."""
    counts, facts = list(opened.shards.counts), {}
    for row, count in enumerate(counts):
        if count == UNKNOWN:
            try:
                facts[row] = opened.facts(row)
            except Unreadable as error:
                raise UserError(f"{opened.urls[row]} cannot be read, and no manifest tells its size: {error}") from None
            counts[row] = facts[row].samples
    for row, losses in zip(facts, estimated(list(facts.values())), strict=True):
        for reason, n in losses.items():
            lost.drop(reason, opened.urls[row], n)
    if not sum(counts):
        raise UserError(f"none of the shards has a sample: {opened.urls[0]} {opened[0].nothing}")
    return counts
