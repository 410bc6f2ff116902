"""A gallery: an index over the pictures of a shard set, with a row for each.

Its folder is one of versions (eval/search/versions.py). A version has index.faiss, rows.parquet, rows.arrow,
vectors.npy and, written last, index.toml: the kind, the model, the data, size and checksum of every file. Ids are
numbers of rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.ledger import Ledger
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import UNKNOWN, ShardSet
from eval.index import NOTHING, Index, Vectors
from eval.search.row_file import Keys, RowFile
from eval.search.versions import Version, pointed_at
from vlp.config import build, only_ours
from vlp.errors import UserError
from vlp.legible import plain
from vlp.pictures import Limits, Refused, decode

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlp.models.release import Release


@dataclass(frozen=True)
class Hit:
    """One match: a picture of the gallery, with its score."""

    score: float  # cosine
    key: str
    captions: Mapping[str, str]
    shard: str
    thumbnail: bytes  # WebP or PNG, b"" where none was kept

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
        self.rows = RowFile(self.files)
        kept = self.files / "vectors.npy"
        self._vectors = np.load(kept, mmap_mode="r") if kept.is_file() else None  # readable when the version is gone
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
                return cls(folder, Vectors.load(version.files / "index.faiss", kind, mapped=mapped), version)
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
        return None if self._vectors is None else np.array(self._vectors[row], np.float32)

    def search(self, release: Release, queries: NDArray[Any], k: int) -> list[list[Hit]]:
        """The K best rows of each query [Q, D], best first. Raises UserError if `release` is not the index's model."""
        self.check_model(release)
        hits = self.vectors.search(queries, k)
        rows = self._rows(np.unique(hits.ids[hits.ids != NOTHING]))
        return [
            [rows[int(i)](float(s)) for s, i in zip(scores, ids, strict=True) if i != NOTHING]
            for scores, ids in zip(hits.scores, hits.ids, strict=True)
        ]

    def _rows(self, ids: NDArray[np.int64]) -> dict[int, Any]:
        """For each id a function from a score to its Hit."""

        def hit(row: dict[str, Any]) -> Any:
            captions = {str(language): str(text) for language, text in json.loads(row["captions"]).items()}
            return lambda score: Hit(
                score, str(row["key"]), captions, str(row["shard"]), bytes(row["thumbnail"] or b"")
            )

        try:
            return {i: hit(row) for i, row in self.rows.at(ids)}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{self.rows.path} has no rows for these matches ({plain(error)}); build the index again"
            ) from None
