"""How fast `vlp embed` is beside its bare parts, and where its time goes.

    python -m benchmarks.search --only embed

`embed.rate` is the rate at which 1,000 JPEG photos of 500 x 375 become a store of image vectors, checksums and rows
included, by ViT-S-32-alt (224 pixels, random weights); the peer decodes and resizes them by Pillow in threads and then
gives the encoder what is there. `embed.both` adds their captions to both sides. `embed.demo` is the same with the small
pictures' encoder of `vlp demo` (its model where there is one), and `embed.demo_scaled` with `--decode scaled`;
`embed.demo_decode` and `embed.demo_encode` are what its bare parts do alone, with all threads each: where the time
goes. `embed.scaled_cosine` is the least cosine of a photo's two vectors, scaled and exact.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.evaluate import ENCODER, WORK, bare, demo_model, photos, prepared
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings.blocks import Decode
from eval.embeddings.embed import embed
from eval.embeddings.store import EmbeddingStore, What
from vlp.models.release import Release, load

PARTS = "Pillow and the encoder alone"
ROUNDS = 5


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """The cases, one after the other."""
    import torch

    threads, rounds = torch.get_num_threads(), 1 if quick else ROUNDS
    spec = photos()
    data = [sample.image for sample in read_samples(ShardSet.open(spec))]
    release = load(ENCODER, random_weights=True)
    yield _beside(release, spec, data, case="embed.rate", what="images", rounds=rounds, threads=threads)
    yield _beside(release, spec, data, case="embed.both", what="both", rounds=rounds, threads=threads)
    demo = load(demo_model(Path("runs/demo/model")))
    yield _beside(demo, spec, data, case="embed.demo", what="images", rounds=rounds, threads=threads)
    yield record.row("embed.demo_scaled", "photos/s", [rate(demo, spec, decode="scaled") for _ in range(rounds)])
    alone = [_alone(demo, data, threads) for _ in range(rounds)]
    yield record.row("embed.demo_decode", "photos/s", [len(data) / decode for decode, _ in alone])
    yield record.row("embed.demo_encode", "photos/s", [len(data) / encode for _, encode in alone])
    for name, one in (("", release), ("demo_", demo)):
        yield record.row(f"embed.{name}scaled_cosine", "cosine", [scaled_cosine(one, spec)])


def _beside(
    release: Release, spec: str, data: Sequence[bytes], *, case: str, what: What, rounds: int, threads: int
) -> dict[str, Any]:
    """One case beside its bare parts, in turn; the first of both is a warm-up."""
    ours, peer = [], []
    texts = [f"photo {number}" for number in range(len(data))] if what == "both" else []
    for _ in range(rounds + 1):
        ours.append(rate(release, spec, what=what))
        start = time.perf_counter()
        bare(data, release.encoder, threads, side=release.transform.size)
        for first in range(0, len(texts), 512):
            release.embed_texts(texts[first : first + 512])
        peer.append(len(data) / (time.perf_counter() - start))
    return record.row(case, "photos/s", ours[1:], peer[1:], PARTS)


def rate(release: Release, spec: str, *, what: What = "images", decode: Decode = "exact") -> float:
    """Photos a second, from the shard to the store on disk."""
    out = Path(tempfile.mkdtemp(dir=WORK))
    start = time.perf_counter()
    embed(release, spec, out, what=what, decode=decode)
    seconds = time.perf_counter() - start
    count = EmbeddingStore.open(out).count()
    shutil.rmtree(out)
    return count / seconds


def _alone(release: Release, data: Sequence[bytes], threads: int) -> tuple[float, float]:
    """Seconds of decoding and resizing, and of encoding."""
    start = time.perf_counter()
    pixels = prepared(data, threads, side=release.transform.size)
    middle = time.perf_counter()
    release.embed_pixels(pixels)
    return middle - start, time.perf_counter() - middle


def scaled_cosine(release: Release, spec: str) -> float:
    """The least cosine of the vectors of a photo that was decoded scaled, and exactly."""
    vectors = []
    ways: tuple[Decode, ...] = ("exact", "scaled")
    for decode in ways:
        out = Path(tempfile.mkdtemp(dir=WORK))
        embed(release, spec, out, what="images", decode=decode)
        store = EmbeddingStore.open(out)
        vectors.append(np.concatenate([store.images(part) for part in store.parts]))
        shutil.rmtree(out)
    return float((vectors[0] * vectors[1]).sum(axis=1).min())
