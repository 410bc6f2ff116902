"""A gallery: an index over the pictures of a shard set, with a row for each.

Its folder is one of versions (eval/search/versions.py). A version has index.faiss, rows.parquet, rows.arrow,
columns.parquet, vectors.npy and, written last, index.toml: the kind, the model, the data, size and checksum of every
file. Ids are numbers of rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.ledger import Ledger
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import UNKNOWN, ShardSet
from eval.index import Index, Ints, Vectors
from eval.search.filters import Filters
from eval.search.refine import Ranked, Refining, refined
from eval.search.row_file import Keys, RowFile
from eval.search.versions import Version, pointed_at
from vlp.config import build, only_ours
from vlp.errors import UserError
from vlp.legible import plain
from vlp.pictures import Limits, Refused, decode

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlp.models.release import Release

SHOWN = 24  # of those that a hit stands for, whose thumbnails are read; there may be as many as there are rows


@dataclass(frozen=True)
class Hit:
    """One match: a picture of the gallery, with its score."""

    score: float  # cosine
    key: str
    captions: Mapping[str, str]
    shard: str
    thumbnail: bytes  # WebP or PNG, b"" where none was kept
    metadata: Mapping[str, Any] = field(default_factory=dict)  # what else is known of it
    alike: tuple[Hit, ...] = ()  # near-identical ones that were folded into it, best first

    def picture(self) -> Image:
        """The thumbnail; where none was kept, the picture itself, read from its shard. Raises UserError."""
        if self.thumbnail:
            return _decoded(self.thumbnail, f"the thumbnail of {plain(self.key)}")
        if not self.shard:
            raise UserError(f"no picture of {plain(self.key)} was kept, and its row does not say which shard it is in")
        for sample in read_samples(one_shard(self.shard), skip=Ledger()):
            if sample.key == self.key:
                return _decoded(sample.image, f"{plain(self.key)} of {self.shard}")
        raise UserError(f"{self.shard} is gone or no longer holds {plain(self.key)}; build the index again")


def one_shard(url: str) -> ShardSet:
    """The tar that a row names, whatever signs its path holds."""
    return ShardSet((url,), (UNKNOWN,), (UNKNOWN,), ("",))


def _decoded(picture: bytes, what: str) -> Image:
    try:
        return decode(picture, Limits())
    except Refused as error:
        raise UserError(f"{what} cannot be shown: {error}; build the index again") from None


class Gallery:
    """An open version of an index folder: it answers as it did, whatever versions are written meanwhile."""

    def __init__(self, folder: Path, vectors: Vectors, version: Version) -> None:
        self.folder, self.vectors, self.about = folder, vectors, version.about
        self.files = version.files  # where this version's files lie
        self.of = version.of  # what is searched: pictures, or captions
        self.rows = RowFile(self.files)
        self.filters = Filters(self.files)
        self._keys: Keys | None = None
        self._lock = Lock()

    @classmethod
    def open(cls, folder: Path, *, trust: bool = False, mapped: bool = True) -> Gallery:
        """The gallery in `folder`; with `trust` its kind may be code that is no part of vlp.

        mapped: vectors are read from the disk as they are needed, which opens an index of any size at once. Raises
        UserError if it is none, or if a file is missing or of another size; `vlp index verify` compares checksums.
        """
        while True:
            name = pointed_at(folder)
            try:
                version = Version.current(folder)
                version.check_files()
                with only_ours(not trust):
                    kind: Index = build(Index, version.about["kind"], "kind")
                vectors = kind.at(folder).load(version.files / kind.file, mapped=mapped)
                kept = version.files / "vectors.npy"
                if kept.is_file():  # they stay readable when the version is gone
                    vectors.source = np.asarray(np.load(kept, mmap_mode="r"))
                return cls(folder, vectors, version)
            except (UserError, OSError):
                if pointed_at(folder) == name:
                    raise  # else it was replaced while it was opened

    @property
    def model(self) -> str:
        """The model that the index was built with: its folder, also if both were moved together, or its name."""
        model = self.about["model"]
        beside = self.folder / model["beside"] if model["beside"] else None
        return str(beside.resolve()) if beside is not None and beside.is_dir() else str(model["name"])

    def check_model(self, release: Release) -> None:
        """Raise UserError if `release` is not the model that the index was built with."""
        builder = self.about["model"]
        if builder["id"] not in (release.id, ""):
            raise UserError(
                f"{self.folder} was built by the model {builder['id'][:12]} ({builder['name']}), "
                f"but the query is by {release.id[:12]} ({release.name}); build the index again with this model"
            )

    def with_key(self, key: str) -> int:
        """The id of the picture with this key, the first where there are several. Raises UserError if there is none.

        The first call reads all keys; 16 bytes of each stay in memory.
        """
        with self._lock:
            self._keys = self._keys or Keys(self.rows, self.vectors.live_ids())
            found = self._keys.ids(key)
        if not len(found):
            raise UserError(f'the index has no picture with the key "{plain(key, 60)}"; it may have been removed')
        return int(found[0])

    def vector(self, row: int) -> NDArray[np.float32] | None:
        """[D] the vector of a picture by its id, unit norm; None where an earlier version of vlp kept none."""
        kept = self.vectors.source
        return None if kept is None else np.array(kept[row], np.float32)

    def search(
        self,
        release: Release,
        queries: NDArray[Any],
        k: int,
        *,
        where: str = "",
        among: Ints | None = None,
        fold: float | None = None,
        rerank: int | None = None,
        most: int | None = None,
        pictures: bool = True,
    ) -> list[list[Hit]]:
        """The K best rows of each query [Q, D], best first, of those that a filter leaves.

        where: a predicate over `filters.columns()`, such as width > 100; "" for all rows. among: what `filters.ids`
        gave for one, where that was asked for before. fold: cosine from which on a hit is folded into a better one,
        which stands for both. rerank: hits of the index that are scored again with the vectors themselves; None: the K,
        where the index's scores are estimates. most: hits that are looked at where many are folded. pictures: whether
        thumbnails are read. Raises UserError for a filter that cannot be answered, for settings out of their bounds, or
        if `release` is not the index's model.
        """
        self.check_model(release)
        if among is None and where:
            among = self.filters.ids(where)
        how = Refining(fold, self._reranked(k) if rerank is None else rerank, most)
        ranked = refined(
            partial(self.vectors.search, among=among), self._kept(how), np.asarray(queries, np.float32), k, how
        )
        return self._hits(ranked, pictures=pictures)

    def _reranked(self, k: int) -> int:
        """How many hits are scored again if nobody says: only estimates are, and only where vectors were kept."""
        return 0 if self.vectors.kind.exact_scores or self.vectors.source is None else k

    def _kept(self, how: Refining) -> NDArray[Any]:
        """[N, D] the vectors themselves where they are needed. Raises UserError if an earlier version kept none."""
        if not how.needs_vectors:
            return np.empty((0, self.vectors.dim), np.float32)
        if self.vectors.source is None:
            raise UserError(
                f"{self.folder} was written by an earlier version, which kept no vectors; build the index again"
            )
        return self.vectors.source

    def hits(self, ids: Sequence[int], scores: Sequence[float]) -> list[Hit]:
        """The rows of these ids, each with its score. Raises UserError if there is none of one."""
        rows = self._rows(np.unique(np.asarray(ids, np.int64)), pictures=True)
        return [rows[i](score) for i, score in zip(ids, scores, strict=True)]

    def _hits(self, ranked: Sequence[Ranked], *, pictures: bool) -> list[list[Hit]]:
        """Matches with their rows."""
        none = np.empty(0, np.int64)
        first = [ids for match in ranked for ids in (match.ids, *(folds[:SHOWN] for _, folds in match.alike))]
        further = [folds[SHOWN:] for match in ranked for _, folds in match.alike]
        rows = self._rows(np.unique(np.concatenate([none, *further])), pictures=False)
        rows |= self._rows(np.unique(np.concatenate([none, *first])), pictures=pictures)

        def hits(match: Ranked) -> Iterator[Hit]:
            for score, row, (scores, folds) in zip(match.scores, match.ids, match.alike, strict=True):
                alike = tuple(rows[int(i)](float(s)) for s, i in zip(scores, folds, strict=True))
                hit: Hit = rows[int(row)](float(score))
                yield replace(hit, alike=alike) if alike else hit

        return [list(hits(match)) for match in ranked]

    def _rows(self, ids: NDArray[np.int64], *, pictures: bool) -> dict[int, Any]:
        """For each id a function from a score to its Hit."""

        def hit(row: dict[str, Any]) -> Any:
            captions = {str(language): str(text) for language, text in json.loads(row["captions"]).items()}
            metadata = json.loads(row.get("metadata") or "{}")
            thumbnail = bytes(row.get("thumbnail") or b"")
            return lambda score: Hit(score, str(row["key"]), captions, str(row["shard"]), thumbnail, metadata)

        columns = None if pictures else ["key", "captions", "shard", "metadata"]  # without the most of a file's bytes
        try:
            return {i: hit(row) for i, row in self.rows.at(ids, columns)}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{self.rows.path} has no rows for these matches ({plain(error)}); build the index again"
            ) from None
