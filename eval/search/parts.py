"""What an index is made of, some rows at a time: from shards, whose pictures are embedded, or from embeddings."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.ledger import Ledger
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings.encode import data_sha256, embedded_pictures, located
from eval.embeddings.store import EmbeddingStore, is_store
from eval.search.gallery import one_shard
from vlp.errors import UserError
from vlp.legible import plain
from vlp.pictures import Limits, Refused, decode, opened

if TYPE_CHECKING:
    import pyarrow as pa

    from vlp.models.release import Release

THUMBNAIL = 96  # pixels
BLOCK = 16384  # vectors that are in memory at once
OWN = ("key", "image_path", "caption", "captions", "shard", "url", "metadata")
"""Columns of embeddings that are no metadata"""
Part = tuple["pa.Table", NDArray[np.float32]]


@dataclass
class Parts:
    """Rows and vectors of unit norm, some at a time, and what data they are of."""

    spec: str
    sha256: str  # of the data; "" where nothing certain is known
    stream: Iterator[Part]
    skip: Ledger = field(default_factory=Ledger)  # what could not be read, known when all was read
    store: EmbeddingStore | None = None  # where embeddings come from a folder of them
    of: str = "pictures"  # or "captions"
    queries: Callable[[], NDArray[np.float32]] | None = (
        None  # what else to measure by than captions: [Q, D] of pictures
    )

    def about(self) -> dict[str, Any]:
        """For index.toml."""
        return {"spec": located(self.spec), "sha256": self.sha256, "left_out": self.skip.by_reason()}


def parts_of(
    release: Release, spec: str, *, thumbnail: int | None, skip_damaged: bool = False, skip: Ledger | None = None
) -> Parts:
    """The parts of a shard set or of a folder of embeddings.

    thumbnail: the longer side of the small pictures, pixels; 0: none; None: 96 for shards, none for embeddings, whose
    pictures would have to be read again. Raises UserError if embeddings are of another model, if a part of them is
    missing, or, unless `skip_damaged`, if a shard is damaged; the last two when they are read.
    """
    skip = Ledger() if skip is None else skip
    store = store_of(release, spec)
    if store is not None:
        return Parts(spec, store.data, _stored(store, thumbnail or 0), skip, store)
    shards = ShardSet.open(spec)
    side = THUMBNAIL if thumbnail is None else thumbnail
    stream = _embedded(release, shards, side, spec=spec, skip_damaged=skip_damaged, skip=skip)
    return Parts(spec, data_sha256(shards), stream, skip)


def store_of(release: Release, spec: str) -> EmbeddingStore | None:
    """The folder of embeddings that `spec` is; None if it is none. Raises UserError if it is of another model."""
    if not is_store(Path(spec)):
        return None
    store = EmbeddingStore.open(Path(spec))
    if store.model not in (release.id, ""):
        raise UserError(
            f"{spec} was embedded by the model {store.model[:12]}, not by {release.id[:12]} ({release.name})"
        )
    return store


def table(
    keys: list[str], captions: list[str], shards: list[str], thumbnails: list[bytes], metadata: list[str]
) -> pa.Table:
    """Rows of an index; captions and metadata are JSON objects as text."""
    import pyarrow as pa

    rows = {"key": keys, "captions": captions, "shard": shards, "thumbnail": thumbnails, "metadata": metadata}
    kinds = {name: pa.binary() if name == "thumbnail" else pa.string() for name in rows}
    return pa.table(rows, schema=pa.schema(kinds))


def with_metadata(rows: pa.Table) -> pa.Table:
    """Rows of an index; those that an earlier version wrote get metadata that say nothing."""
    import pyarrow as pa

    return rows if "metadata" in rows.column_names else rows.append_column("metadata", pa.array(["{}"] * len(rows)))


def _embedded(
    release: Release, shards: ShardSet, thumbnail: int, *, spec: str, skip_damaged: bool, skip: Ledger
) -> Iterator[Part]:
    some = False
    embedded = embedded_pictures(release, shards, skip, skip_damaged=skip_damaged, what="indexing pictures")
    for url, samples, vectors in embedded:
        some = True
        small = [shrunk(s.image, thumbnail) if thumbnail else b"" for s in samples]
        said = [json.dumps(s.captions, ensure_ascii=False) for s in samples]
        known = [as_json(s.metadata) for s in samples]
        yield table([s.key for s in samples], said, [located(url)] * len(samples), small, known), vectors
    if not some:
        raise UserError(f"{spec} has no readable picture to index; check it with: vlp shards verify {spec}")


def _stored(store: EmbeddingStore, thumbnail: int) -> Iterator[Part]:
    for part in store.parts:
        rows, vectors = store.rows(part), store.images(part)
        if len(rows) != len(vectors):
            raise UserError(
                f"part {part} of {store.folder} has {len(vectors):,} vectors but {len(rows):,} rows; embed it again"
            )
        for start in range(0, len(rows), BLOCK):
            some = rows.slice(start, BLOCK).to_pylist()
            keys = [str(row.get("key") or row.get("image_path") or start + i) for i, row in enumerate(some)]
            captions = [row.get("captions") or json.dumps({"en": row.get("caption") or ""}) for row in some]
            shards = [str(row.get("shard") or "") for row in some]
            small = thumbnails(keys, shards, thumbnail) if thumbnail else [b""] * len(some)
            known = [metadata_of(row) for row in some]
            yield table(keys, captions, shards, small, known), unit(vectors[start : start + BLOCK], store.folder, part)


def metadata_of(row: Mapping[str, Any]) -> str:
    """What is known of a row of embeddings, as JSON: its metadata and url, or what others wrote beside its caption.

    >>> metadata_of({"key": "a", "caption": "x", "width": 9}), metadata_of({"metadata": '{"w": 9}', "url": "u"})
    ('{"width": 9}', '{"w": 9, "url": "u"}')
    """
    url = {"url": row["url"]} if row.get("url") else {}
    if isinstance(row.get("metadata"), str):
        try:
            known = json.loads(row["metadata"] or "{}")
        except (ValueError, RecursionError):
            known = {}
        return as_json({**(known if isinstance(known, dict) else {}), **url})
    return as_json({**{name: value for name, value in row.items() if name not in OWN}, **url})


def as_json(known: Mapping[str, Any]) -> str:
    """JSON of what is known, without what is null; what JSON has no word for (a date) is text, bytes are left out."""
    kept = {name: value for name, value in known.items() if value is not None and not isinstance(value, bytes)}
    return json.dumps(kept, ensure_ascii=False, default=str)


def unit(vectors: NDArray[Any], folder: Path, part: str) -> NDArray[np.float32]:
    """Vectors of unit norm, which float16 parts have only nearly. Raises UserError if one is not finite, or zero."""
    exact = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        bad = int(np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))[0])
        raise UserError(
            f"part {part} of {folder} holds a vector that is NaN, infinite or zero (the first is number {bad} of its "
            "block): the model that made it is broken; embed again"
        )
    return np.asarray(exact / norms)


def thumbnails(keys: list[str], shards: list[str], side: int) -> list[bytes]:
    """The small pictures of rows, read from the shards that the rows name. Raises UserError if one is not there."""
    small: dict[tuple[str, str], bytes] = {}
    wanted = set(zip(shards, keys, strict=True))
    for shard in dict.fromkeys(shards):
        if not shard:
            raise UserError("--thumbnail wants pictures, but the rows of these embeddings do not say where theirs are")
        for sample in read_samples(one_shard(shard), skip=Ledger()):
            if (shard, sample.key) in wanted:
                with contextlib.suppress(Refused):
                    small[shard, sample.key] = shrunk(sample.image, side)
    missing = next((row for row in zip(shards, keys, strict=True) if row not in small), None)
    if missing:
        raise UserError(
            f"{missing[0]} is gone or no longer holds {plain(missing[1])}; embed again, or leave --thumbnail out"
        )
    return [small[row] for row in zip(shards, keys, strict=True)]


def shrunk(image: bytes, side: int) -> bytes:
    """The encoded picture itself if browsers know its kind and its longer side is at most `side` pixels.

    Any other becomes a WebP that small. Raises Refused.
    """
    with opened(image, Limits()) as picture:
        if max(picture.size) <= side and picture.format in ("PNG", "JPEG", "WEBP"):
            return image
    whole = decode(image, Limits())
    whole.thumbnail((side, side))
    file = BytesIO()
    whole.save(file, "webp", quality=85)
    return file.getvalue()
