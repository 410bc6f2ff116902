"""What an index of captions is made of, some rows at a time: all captions of shards, or those of embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings.encode import data_sha256, embedded_pictures, located, samples_of
from eval.embeddings.store import EmbeddingStore, file_of
from eval.progress_bar import progress_bar
from eval.search.parts import BLOCK, Part, Parts, as_json, metadata_of, parts_of, shrunk, store_of, table, unit
from vlp.errors import UserError
from vlp.pictures import Refused

if TYPE_CHECKING:
    from vlp.models.release import Release

QUERIES = 256  # pictures that an index of captions is measured by


def caption_parts(
    release: Release, spec: str, *, thumbnail: int | None, skip_damaged: bool = False, skip: Ledger | None = None
) -> Parts:
    """The captions of a shard set, a row each, with the key of their picture; of a folder of embeddings those it has.

    thumbnail: as for `parts_of`, but None keeps none. Raises UserError as `parts_of` does.
    """
    skip = Ledger() if skip is None else skip
    store = store_of(release, spec)
    if store is not None:
        images = [part for part in store.parts if file_of(store.folder, "img_emb", part).is_file()]
        stored = partial(_stored_pictures, store, images) if images else None
        return Parts(spec, store.data, _stored(store), skip, of="captions", queries=stored)
    shards = ShardSet.open(spec)
    stream = _said(release, shards, thumbnail or 0, spec=spec, skip_damaged=skip_damaged, skip=skip)
    queries = partial(_first_pictures, release, shards)
    return Parts(spec, data_sha256(shards), stream, skip, of="captions", queries=queries)


KINDS: Mapping[str, Callable[..., Parts]] = {"pictures": parts_of, "captions": caption_parts}
"""What an index may be of, and what gives its rows"""


def captions_of(sample: Sample) -> list[tuple[str, str]]:
    """(language, caption) of all that is said of a sample."""
    return [(language, text) for language in sample.captions for text in sample.said(language)]


def _said(
    release: Release, shards: ShardSet, thumbnail: int, *, spec: str, skip_damaged: bool, skip: Ledger
) -> Iterator[Part]:
    some = False
    total = sum(shards.counts) if min(shards.counts) >= 0 else None
    with progress_bar("indexing captions", total) as advance:
        for url, samples in samples_of(shards, skip, skip_damaged=skip_damaged):
            said = [(sample, *caption) for sample in samples for caption in captions_of(sample)]
            if said:
                some = True
                small = {sample.key: _small(sample, thumbnail) for sample in samples}
                rows = table(
                    [sample.key for sample, _, _ in said],
                    [as_json({language: text}) for _, language, text in said],
                    [located(url)] * len(said),
                    [small[sample.key] for sample, _, _ in said],
                    [as_json(sample.metadata) for sample, _, _ in said],
                )
                yield rows, np.asarray(release.embed_texts([text for _, _, text in said]), np.float32)
            advance(len(samples))
    if not some:
        raise UserError(f"{spec} has no caption to index; look at it with: vlp shards stats {spec}")


def _small(sample: Sample, side: int) -> bytes:
    try:
        return shrunk(sample.image, side) if side else b""
    except Refused:  # a caption is one without its picture, too
        return b""


def _stored(store: EmbeddingStore) -> Iterator[Part]:
    for part in store.parts:
        rows, vectors = store.rows(part), store.texts(part)
        if len(rows) != len(vectors):
            raise UserError(
                f"part {part} of {store.folder} has {len(vectors):,} vectors of captions but {len(rows):,} rows; "
                "embed it again"
            )
        for start in range(0, len(rows), BLOCK):
            some = [
                (start + i, row) for i, row in enumerate(rows.slice(start, BLOCK).to_pylist()) if row.get("caption")
            ]
            made = table(
                [str(row.get("key") or row.get("image_path") or i) for i, row in some],
                [as_json({_language(row.get("captions"), row["caption"]): row["caption"]}) for _, row in some],
                [str(row.get("shard") or "") for _, row in some],
                [b""] * len(some),
                [metadata_of(row) for _, row in some],
            )
            yield made, unit(vectors[[i for i, _ in some]], store.folder, part)


def _language(captions: object, caption: str) -> str:
    """The language of a caption in a row's table of them; "en" where nothing says."""
    try:
        named = json.loads(captions) if isinstance(captions, str) else {}
    except (ValueError, RecursionError):
        named = {}
    said = named.items() if isinstance(named, dict) else ()
    return next(
        (str(name) for name, text in said if text == caption or (isinstance(text, list) and caption in text)), "en"
    )


def _stored_pictures(store: EmbeddingStore, parts: list[str]) -> NDArray[np.float32]:
    """At most QUERIES vectors of pictures, the same share of each part."""
    each = -(-QUERIES // len(parts))
    drawn = []
    for part in parts:
        vectors = store.images(part)
        rows = np.linspace(0, len(vectors) - 1, min(each, len(vectors))).astype(np.int64)
        drawn.append(unit(vectors[rows], store.folder, part))
    return np.concatenate(drawn)[:QUERIES]


def _first_pictures(release: Release, shards: ShardSet) -> NDArray[np.float32]:
    """The vectors of the first QUERIES pictures that can be read; none is [0, D]."""
    vectors = [np.asarray(release.embed_images([]), np.float32)]
    for _, _, some in embedded_pictures(release, shards, Ledger(), skip_damaged=True, bar=False):
        vectors.append(some)
        if sum(map(len, vectors)) >= QUERIES:
            break
    return np.concatenate(vectors)[:QUERIES]
