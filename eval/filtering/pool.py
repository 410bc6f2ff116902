"""The samples of a shard set with their stored vectors: sample n is the n-th of all, in the order of the tars."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data_pipelines.remote.patience import Unreadable
from data_pipelines.shards.open_shards import OpenShards
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings.encode import data_sha256
from eval.embeddings.store import EmbeddingStore
from eval.filtering.kept import Kept
from eval.filtering.stored import Kind, Stored
from eval.progress_bar import progress_bar
from vlp.errors import UserError
from vlp.legible import plain

BLOCK = 1 << 15  # samples whose vectors are in memory at once: 64 MiB of width 512
NO_VECTOR = -1
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass
class Pool:
    """Samples and vectors. In memory are 16 bytes a sample and the keys of open shards; vectors come in blocks."""

    opened: OpenShards
    stored: Stored
    starts: Ints  # [shards + 1] number of each shard's first sample
    row: Ints  # [N] number of the sample's vector in the store, or NO_VECTOR
    tie: NDArray[np.uint64]  # [N] an order of samples that does not depend on where they lie

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def has_vector(self) -> Flags:
        """[N] which samples can be judged."""
        return np.asarray(self.row != NO_VECTOR)

    def vectors(self, numbers: Ints, kind: Kind = "image") -> NDArray[np.float32]:
        """[n, D] unit vectors of these samples, of their pictures or of their first captions."""
        return self.stored.vectors(self.row[numbers], kind)

    def blocks(self, stays: Flags, what: str) -> Iterator[tuple[int, Ints]]:
        """(number of the block, numbers of its samples that stay so far); what is done is shown as `what`."""
        with progress_bar(what, len(self), unit="samples") as advance:
            for block, start in enumerate(range(0, len(self), BLOCK)):
                some = np.flatnonzero(stays[start : start + BLOCK]).astype(np.int64) + start
                if len(some):
                    yield block, some
                advance(min(BLOCK, len(self) - start))

    def place(self, number: int) -> tuple[int, int]:
        """(shard, place in it) of a sample."""
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        return shard, number - int(self.starts[shard])

    def name(self, number: int) -> str:
        """Shard and key of a sample, for people."""
        shard, place = self.place(number)
        return f"{name_of(self.opened.urls[shard])}/{self.opened[shard].index.keys[place]}"


def name_of(url: str) -> str:
    """The name of a tar, whatever folder it lies in."""
    return url.rsplit("/", 1)[-1]


def open_pool(spec: str, store: EmbeddingStore, kept: Kept, *, skip_missing: bool = False) -> Pool:
    """The samples of `spec` with the vectors of `store`.

    Raises UserError if the vectors are of other shards, if a shard cannot be read, or, unless `skip_missing`, if
    samples have no vector although nothing says that their pictures cannot be read.
    """
    shards = ShardSet.open(spec)
    data = data_sha256(shards)
    known = bool(data and store.data == data)
    if store.data and data and not known:
        raise UserError(
            f"{store.folder} was embedded from other shards than {spec} (sha256 {store.data[:12]}, not {data[:12]}); "
            "run `vlp embed` on these"
        )
    pool_of = _Matching(OpenShards(shards), Stored(store), by_part=known)
    starts = kept.array("starts", pool_of.starts)
    row = kept.array("row", pool_of.rows)
    tie = kept.array("tie", pool_of.ties)
    pool = Pool(pool_of.opened, pool_of.stored, np.array(starts), np.array(row), np.array(tie))
    _refuse_missing(pool, store, spec, skip=known or skip_missing)
    return pool


def _refuse_missing(pool: Pool, store: EmbeddingStore, spec: str, *, skip: bool) -> None:
    missing = np.flatnonzero(~pool.has_vector)
    if len(missing) == len(pool):
        raise UserError(f"{store.folder} has no vector for any of the {len(pool):,} samples of {spec}: embed these")
    if len(missing) and not skip:
        raise UserError(
            f"{store.folder} has no vector for {len(missing):,} of the {len(pool):,} samples of {spec}, first for "
            f"{plain(pool.name(int(missing[0])))}: embed these shards, or leave such samples out with --skip-missing"
        )


@dataclass
class _Matching:
    """Finds the vector of each sample: by part and key where part i is of shard i, else by key alone."""

    opened: OpenShards
    stored: Stored
    by_part: bool

    def keys(self) -> Iterator[Sequence[str]]:
        """The keys of each shard. Raises UserError for one that cannot be read."""
        with progress_bar("reading keys", len(self.opened.urls), unit="shards") as advance:
            for shard, url in enumerate(self.opened.urls):
                try:
                    yield self.opened[shard].index.keys
                except Unreadable as error:
                    raise UserError(f"{url} cannot be read ({error}); check it with `vlp shards verify`") from None
                advance(1)

    def starts(self) -> Ints:
        return np.cumsum([0, *(len(keys) for keys in self.keys())]).astype(np.int64)

    def ties(self) -> NDArray[np.uint64]:
        names = (f"{name_of(url)}/" for url in self.opened.urls)
        return np.concatenate([hashes(keys, name) for name, keys in zip(names, self.keys(), strict=True)])

    def rows(self) -> Ints:
        if self.by_part:
            return np.concatenate([self._of_part(part, keys) for part, keys in enumerate(self.keys())])
        wanted = np.concatenate([hashes(keys) for keys in self.keys()])
        known = np.concatenate([hashes(self._stored_keys(part)) for part in range(len(self.stored.store.parts))])
        order = np.argsort(known, kind="stable")
        ordered = known[order]
        self._refuse_repeated(wanted, known)
        at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        return np.where(ordered[at] == wanted, order[at], NO_VECTOR).astype(np.int64)

    def _refuse_repeated(self, wanted: NDArray[np.uint64], known: NDArray[np.uint64]) -> None:
        for what, some in (("samples of the shards", wanted), (f"rows of {self.stored.store.folder}", known)):
            if len(np.unique(some)) < len(some):
                raise UserError(
                    f"several {what} have the same key, so that no vector can be told to be of one of them; "
                    "embed these shards with `vlp embed`, which keeps shards apart"
                )

    def _of_part(self, part: int, keys: Sequence[str]) -> Ints:
        place = {key: n for n, key in enumerate(self._stored_keys(part))}
        start = int(self.stored.starts[part])
        return np.array([start + place[key] if key in place else NO_VECTOR for key in keys], np.int64)

    def _stored_keys(self, part: int) -> list[str]:
        rows = self.stored.rows(part)
        name = next((name for name in ("key", "image_path") if name in rows.column_names), None)
        if name is None:
            raise UserError(f"the rows of {self.stored.store.folder} have no column key or image_path; embed again")
        return [str(key) for key in rows[name].to_pylist()]


def hashes(keys: Sequence[str], before: str = "") -> NDArray[np.uint64]:
    """64 bits of each key; of 10 million different ones two share theirs with a probability of 3 in a million."""
    digests = (hashlib.blake2b((before + key).encode("utf-8", "surrogatepass"), digest_size=8).digest() for key in keys)
    return np.frombuffer(b"".join(digests), np.uint64)
