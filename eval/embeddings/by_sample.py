"""The vectors of a store by sample: found by shard and key, mapped from the disk, in memory that does not grow.

Of each part its keys are kept as sorted hashes, 12 bytes a row, of the last parts that were asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from data_pipelines.loading.pipeline import Pipeline
from data_pipelines.remote.patience import Unreadable
from data_pipelines.stream import OpenSources
from eval.embeddings.blocks import plain_utf8
from eval.embeddings.encode import located
from eval.embeddings.store import KINDS, EmbeddingStore, file_of
from eval.search.parts import unit
from vlp.distributed.background import BackgroundGroup
from vlp.errors import UserError
from vlp.legible import plain

MOST_OPEN = 256  # parts whose keys and vectors are at hand
T = TypeVar("T")


@dataclass
class Recent:
    """What was made for the last parts that were asked for."""

    kept: OrderedDict[tuple[str, str], Any] = field(default_factory=OrderedDict)

    def get(self, kind: str, part: str, make: Callable[[], T]) -> T:
        """What `make` gave for a part, or gives now."""
        if (kind, part) not in self.kept:
            self.kept[kind, part] = make()
            if len(self.kept) > 3 * MOST_OPEN:
                self.kept.popitem(last=False)
        self.kept.move_to_end((kind, part))
        value: T = self.kept[kind, part]
        return value


class BySample:
    """Vectors of a store that `vlp embed` wrote; checksums are compared when a part is read first."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError for a folder that is no such store, or one that is not whole."""
        self.store = EmbeddingStore.open(folder)
        if not self.store.sums:
            raise UserError(f"{folder} was not written by `vlp embed`, which names the shard of each row; embed again")
        self.recent, self._checked = Recent(), set[tuple[str, str]]()
        self.parts: dict[str, str] = {}  # by shard
        for part in self.store.parts:
            self.parts |= dict.fromkeys(self._shards(part), part)
        names: dict[str, list[str]] = defaultdict(list)
        for shard, part in self.parts.items():
            names[base(shard)].append(part)
        self.names = {name: parts[0] for name, parts in names.items() if len(parts) == 1}
        if not self.parts:
            raise UserError(f"{folder} has no rows; embed shards that have readable samples")
        self.kinds = KINDS[self.store.what]
        first = next(iter(self.parts.values()))
        widths = [self._vectors(kind, first).shape[1] for kind in self.kinds]
        if len(set(widths)) > 1:
            raise UserError(
                f"{folder} holds pictures of width {widths[0]} and texts of width {widths[1]}; embed one kind"
            )
        self.width = widths[0]
        self.id = hashlib.sha256(f"{self.store.model} {self.store.data} {self.store.what}".encode()).hexdigest()

    def of(self, shards: Sequence[str], keys: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Unit vectors of the pictures [n, D] and of the first captions [n, D]; of a store of one kind, twice the same.

        Raises UserError for a sample that is not there.
        """
        by_part: dict[str, list[int]] = defaultdict(list)
        for n, (shard, key) in enumerate(zip(shards, keys, strict=True)):
            by_part[self.part(shard) or self._absent(shard, key)].append(n)
        out = {kind: np.empty((len(keys), self.width), np.float32) for kind in self.kinds}
        for part, places in by_part.items():
            rows = self.rows(part, [keys[n] for n in places])
            for n, row in zip(places, rows.tolist(), strict=True):
                if row < 0:
                    self._absent(shards[n], keys[n])
            for kind in self.kinds:
                out[kind][places] = unit(self._vectors(kind, part)[rows], self.store.folder, part)
        return out[self.kinds[0]], out[self.kinds[-1]]

    def refuse_lacking(self, sources: OpenSources) -> None:
        """Raise UserError if samples of a run are not there, those apart that could not be read for the store either.

        It reads the index of every shard, and no picture.
        """
        total, lacking, one = 0, 0, ""
        for opened in sources.shards:
            for row, url in enumerate(opened.urls):
                try:
                    keys = opened[row].index.keys
                except Unreadable:
                    continue  # the run will count it
                gone = self.lacks(url, keys)
                total, lacking = total + len(keys), lacking + len(gone)
                one = one or (f"{plain(gone[0])} of {plain(url, 500)}" if gone else "")
        if lacking:
            raise UserError(
                f"{self.store.folder} lacks {lacking:,} of the {total:,} samples of this run, such as {one}; embed the "
                "shards that are trained on: vlp embed MODEL SHARDS FOLDER"
            )

    def lacks(self, shard: str, keys: Sequence[str]) -> list[str]:
        """Which of the samples of a shard are neither rows of the store nor among what it lost."""
        part = self.part(shard)
        if part is None:
            return list(keys)
        gone = [keys[n] for n in np.flatnonzero(self.rows(part, keys) < 0).tolist()]
        if not gone:
            return []
        path = file_of(self.store.folder, "ledger", part)
        lost = {json.loads(line)["key"] for line in path.read_text(encoding="utf-8").splitlines()}
        return [key for key in gone if plain(key) not in lost]

    def part(self, shard: str) -> str | None:
        """The part of a shard, by its place or, where it lies elsewhere now, by its name; None if there is none."""
        return self.parts.get(located(shard)) or self.names.get(base(shard))

    def rows(self, part: str, keys: Sequence[str]) -> NDArray[np.int64]:
        """[n] the rows of samples in a part, -1 where there is none."""
        hashes, order = self.recent.get("keys", part, lambda: self._keys(part))
        wanted = hashed(keys)
        if not len(hashes):
            return np.full(len(wanted), -1)
        at = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
        return np.where(hashes[at] == wanted, order[at].astype(np.int64), -1)

    def _keys(self, part: str) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """The hashes of a part's keys in their order, and the row of each."""
        hashes = hashed(self._column(part, "key").to_pylist())
        order = np.argsort(hashes, kind="stable").astype(np.uint32)
        return hashes[order], order

    def _shards(self, part: str) -> list[str]:
        """The shard that a part was made of; none for a part without rows."""
        return [str(shard) for shard in self._column(part, "shard").unique().to_pylist()]

    def _column(self, part: str, name: str) -> Any:
        import pyarrow.parquet as pq

        path = file_of(self.store.folder, "metadata", part)
        try:
            return pq.read_table(path, columns=[name]).column(name)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} is not a parquet file that can be read ({plain(error)}); embed again") from None

    def _vectors(self, kind: str, part: str) -> NDArray[Any]:
        known = replace(self.store, sums=(kind, part) not in self._checked)
        self._checked.add((kind, part))
        return self.recent.get(kind, part, lambda: known.images(part) if kind == "img_emb" else known.texts(part))

    def _absent(self, shard: str, key: str) -> NoReturn:
        raise UserError(
            f"{self.store.folder} has no vector of {plain(key)} of {plain(shard, 500)}; embed the shards that are "
            "trained on: vlp embed MODEL SHARDS FOLDER"
        )


def vectors(folder: Path, sources: OpenSources | Pipeline, group: BackgroundGroup) -> BySample:
    """A folder of vectors of this run's samples (all ranks participate). Raises UserError if it lacks some."""
    if isinstance(sources, Pipeline):
        raise UserError(
            f"teacher.name is stored, which finds samples by shard and key, but {sources.name} is a pipeline of your "
            "own; give data.shards, or take the teacher frozen"
        )
    opened = BySample(folder)
    group.from_rank_0(lambda: opened.refuse_lacking(sources))
    return opened


def base(shard: str) -> str:
    """The name of a shard without its folder."""
    return shard.replace("\\", "/").rsplit("/", 1)[-1]


def hashed(keys: Sequence[str]) -> NDArray[np.uint64]:
    """[n] a hash of 64 bits of each key."""
    digests = b"".join(hashlib.blake2b(plain_utf8(key).encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, np.uint64)
