"""Faults planted among bundled samples, and how many of them each rule of `vlp shards filter` finds."""

from __future__ import annotations

import io
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.record import row
from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from data_pipelines.shards.manifest import Manifest, ShardRecord
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.writing.tar_writer import TarWriter
from eval.embeddings.embed import embed
from eval.filtering.command import filtered
from eval.filtering.words import rules_of
from vlp.errors import UserError
from vlp.models import release as releases

MODEL = Path("runs/demo/model")
TRAIN, TEST = "bundled:emoji/train", "bundled:emoji/test_style"
SWAPPED, DOUBLES, TESTS = "swapped", "double", "test"
SHARE = 0.1  # the lowest scores, among which swapped captions are looked for


def rows(quick: bool, model: Path = MODEL) -> Iterator[dict[str, Any]]:
    """Shares of planted faults that are found, and of other samples that go with them.

    Raises UserError without a model.
    """
    if not model.is_dir():
        raise UserError(f"{model} is not there: run `vlp demo` first")
    rng, release = random.Random(0), releases.load(model)
    clean = list(islice(read_samples(ShardSet.open(TRAIN), skip=Ledger()), 1000 if quick else 12_000))
    rng.shuffle(clean)
    many = len(clean) // 40
    tests = rng.sample(list(read_samples(ShardSet.open(TEST), skip=Ledger())), many)
    samples = planted(clean, tests, many, rng)
    with tempfile.TemporaryDirectory() as folder:
        shards, out = Path(folder) / "shards", Path(folder) / "out"
        write(shards, samples)
        embed(release, str(shards), Path(folder) / "train")
        embed(release, TEST, Path(folder) / "test")
        words = [SWAPPED, *("clip_score", f"share={1 - SHARE}")], [DOUBLES, *("near_duplicates", "eps=0.02")]
        against = f"against={Path(folder) / 'test'}"
        for kind, *rule in (*words, [TESTS, "decontaminate", against]):
            begun = time.monotonic()
            filtered(str(shards), Path(folder) / "train", out / kind, rules_of(rule))
            seconds = time.monotonic() - begun
            yield from _found(out / kind, kind)
            yield row(f"filter.{kind}.rate", "samples/s", [len(samples) / seconds])


def planted(clean: Sequence[Sample], tests: Sequence[Sample], many: int, rng: random.Random) -> list[Sample]:
    """The samples, `many` with the caption of another one, and as many altered copies of them and of test pictures."""
    swapped = [
        replace(one, key=f"{SWAPPED}-{n}", captions=other.captions, txt="")
        for n, (one, other) in enumerate(zip(clean[:many], clean[many : 2 * many], strict=True))
    ]
    rest = list(clean[many:])
    doubles = [altered(one, f"{DOUBLES}-{n}", rng) for n, one in enumerate(rest[-many:])]
    copied = [altered(one, f"{TESTS}-{n}", rng) for n, one in enumerate(tests)]
    every = [*swapped, *rest, *doubles, *copied]
    rng.shuffle(every)
    return every


def altered(sample: Sample, key: str, rng: random.Random) -> Sample:
    """A copy, scaled and encoded as JPEG."""
    picture = Image.open(io.BytesIO(sample.image)).convert("RGB")
    side = rng.randint(48, 80)
    file = io.BytesIO()
    picture.resize((side, side), Image.Resampling.BICUBIC).save(file, "jpeg", quality=rng.randint(60, 90))
    return replace(sample, key=key, image=file.getvalue(), image_format="jpg")


def write(folder: Path, samples: Sequence[Sample], per_shard: int = 1000) -> None:
    """Shards with a manifest."""
    folder.mkdir(parents=True)
    records = list[ShardRecord]()
    for number, start in enumerate(range(0, len(samples), per_shard)):
        tar = TarWriter(folder / f"{number:05d}.tar")
        for sample in samples[start : start + per_shard]:
            tar.add(sample)
        records.append(tar.close())
    Manifest(folder.name, tuple(records)).write(folder)


def _found(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Of planted samples of a kind the share that is left out, and of all others; a double counts where either goes."""
    table = [one for path in sorted((folder / "samples").glob("*.parquet")) for one in pq.read_table(path).to_pylist()]
    ours = [one for one in table if str(one["key"]).startswith(f"{kind}-")]
    liked = {str(one["like"]).rpartition("/")[2] for one in table if not one["stays"] and one["like"]}
    found = [not one["stays"] or (kind == DOUBLES and one["key"] in liked) for one in ours]
    others = [not one["stays"] for one in table if not str(one["key"]).startswith(f"{kind}-")]
    yield row(f"filter.{kind}.found", f"of {len(ours)}", [float(np.mean(found))])
    yield row(f"filter.{kind}.others", f"of {len(others)}", [float(np.mean(others))])
    if kind == TESTS:
        by_hash = [one["reason"] == "picture of a test, by hash" for one in ours]
        yield row("filter.test.found_by_hash", f"of {len(ours)}", [float(np.mean(by_hash))])
