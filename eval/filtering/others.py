"""Pictures and embeddings besides those of the shards: of a reference, of test sets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.ledger import Ledger
from data_pipelines.picture_hash import Fingerprint, fingerprint_of
from data_pipelines.shards.open_shards import OpenShards
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings.encode import data_sha256, decoders, samples_of
from eval.embeddings.store import EmbeddingStore, about, file_of
from eval.filtering.stored import Stored
from eval.index import Floats
from eval.picture_hashes import Hashes
from eval.progress_bar import progress_bar
from eval.search.gallery import one_shard
from vlp.errors import UserError
from vlp.legible import plain
from vlp.pictures import Limits, Refused, decode

BEGINNING = 1 << 16  # bytes
COMPARED = 4096  # vectors that are compared with as many at once


def refuse_other_model(store: EmbeddingStore, stored: Stored) -> None:
    """Raise UserError if these vectors cannot be compared with those of the shards."""
    own = stored.store
    if store.model and own.model and store.model != own.model:
        raise UserError(
            f"{store.folder} was embedded by the model {store.model[:12]}, but {own.folder} by {own.model[:12]}: "
            "vectors of two models cannot be compared, so embed one of them again"
        )
    dim = replace(store, sums=False).images(store.parts[0]).shape[1]
    if dim != stored.dim:
        raise UserError(f"{store.folder} holds vectors of width {dim}, but {own.folder} of {stored.dim}: other models")


def digest(store: EmbeddingStore) -> str:
    """What a store is made of, in short: its model, its data, and of each part the size and the first vectors."""
    made = hashlib.sha256(f"{store.model} {store.data}".encode())
    for part in store.parts:
        with file_of(store.folder, "img_emb", part).open("rb") as file:
            made.update(f" {part} {os.fstat(file.fileno()).st_size} ".encode() + file.read(BEGINNING))
    return made.hexdigest()[:16]


def fingerprints(pictures: Sequence[bytes]) -> list[Fingerprint | None]:
    """Of each encoded picture, decoded in threads; None where it cannot be."""
    return list(decoders().map(_fingerprint, pictures))


def _fingerprint(picture: bytes) -> Fingerprint | None:
    try:
        return fingerprint_of(decode(picture, Limits()))
    except Refused:
        return None


@dataclass(frozen=True)
class TestSet:
    """One test set: a shard set, or a folder of embeddings, which names the shards that its pictures are in."""

    spec: str

    @property
    def store(self) -> EmbeddingStore | None:
        """Its embeddings, if that is what is given. Raises UserError if they are damaged."""
        folder = Path(self.spec)
        return EmbeddingStore.open(folder) if (folder / "img_emb").is_dir() else None

    @property
    def shards(self) -> ShardSet | None:
        """Where its pictures are; None for embeddings that do not say it. Raises UserError if they are not there."""
        spec = self.spec if self.store is None else str(about(Path(self.spec)).get("data", {}).get("spec", ""))
        return ShardSet.open(spec) if spec else None

    def digest(self, *, hashed: bool) -> str:
        """What it is made of; with the shards, where pictures are `hashed`. Raises UserError if they are not there."""
        shards, store = self.shards if hashed else None, self.store
        return "".join([digest(store) if store else "", data_sha256(shards) if shards else ""])


@dataclass
class TestPictures:
    """Pictures of test sets that are looked for, with where each of them is."""

    urls: list[str]
    keys: list[str]
    hashes: Hashes | None
    vectors: list[tuple[int, Stored]]  # (number of the first picture, its vectors)

    def name(self, number: int) -> str:
        """Shard and key, for people."""
        return f"{Path(self.urls[number]).parent.name}/{Path(self.urls[number]).name}/{self.keys[number]}"

    def picture(self, number: int) -> bytes:
        """The encoded picture. Raises UserError if it is gone."""
        opened = OpenShards(one_shard(self.urls[number]))
        keys = list(opened[0].index.keys)
        if self.keys[number] not in keys:
            raise UserError(f"{self.urls[number]} no longer holds {plain(self.keys[number])}; filter again")
        return opened.sample(0, keys.index(self.keys[number])).image

    def nearest(self, vectors: Floats) -> NDArray[np.void]:
        """[n] the best cosine to a test picture (score), and which one it is (like); -2 and -1 without vectors."""
        best = np.empty(len(vectors), [("score", np.float32), ("like", np.int64)])
        best["score"], best["like"] = -2, -1
        for first, stored in self.vectors:
            for start in range(0, len(stored), COMPARED):
                some = np.arange(start, min(start + COMPARED, len(stored)))
                others = stored.vectors(some)
                for at in range(0, len(vectors), COMPARED):
                    scores = vectors[at : at + COMPARED] @ others.T
                    row, part = scores.argmax(axis=1), best[at : at + COMPARED]
                    score = scores[np.arange(len(row)), row]
                    better = score > part["score"]
                    part["score"][better], part["like"][better] = score[better], first + start + row[better]
        return best


def test_pictures(specs: Sequence[str], *, hashed: bool, compared: bool) -> TestPictures:
    """Everything that is known of the pictures of these test sets. Raises UserError for shards that are damaged."""
    urls, keys, prints, vectors = list[str](), list[str](), list[Fingerprint](), list[tuple[int, Stored]]()
    hashed_urls, hashed_keys = list[str](), list[str]()
    for spec in specs:
        one = TestSet(spec)
        if hashed and (shards := one.shards):
            for url, key, made in _hashed(shards, spec):
                hashed_urls.append(url)
                hashed_keys.append(key)
                prints.append(made)
    for spec in specs:
        if compared and (store := TestSet(spec).store):
            stored = Stored(store)
            vectors.append((len(hashed_urls) + len(urls), stored))
            for part in range(len(store.parts)):
                rows = stored.rows(part).to_pylist()
                urls += [str(row.get("shard") or spec) for row in rows]
                keys += [str(row.get("key") or row.get("image_path")) for row in rows]
    return TestPictures(hashed_urls + urls, hashed_keys + keys, Hashes.of(prints) if prints else None, vectors)


def _hashed(shards: ShardSet, spec: str) -> Iterator[tuple[str, str, Fingerprint]]:
    total = sum(shards.counts) if min(shards.counts) >= 0 else None
    with progress_bar(f"hashing {plain(spec, 40)}", total) as advance:
        for url, samples in samples_of(shards, Ledger()):
            for sample, made in zip(samples, fingerprints([s.image for s in samples]), strict=True):
                if made is not None:
                    yield url, sample.key, made
            advance(len(samples))
