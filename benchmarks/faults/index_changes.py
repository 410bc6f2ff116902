"""What indexes are changed by when their writers are killed: pictures that are drawn, and the five commands."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.faults import tars
from eval.search.gallery import Gallery
from eval.search.spool import vectors_of
from vlp.models import release as releases
from vlp.models.release import Release

QUESTIONS = 4
FIRST = 10**6  # number of the first picture that is not drawn here
PICTURES = 80  # in an index: two cells are trained on 64 at least
Content = dict[str, int]  # by key: which picture it is
Vectors = dict[int, NDArray[np.float32]]


@dataclass(frozen=True)
class World:
    """Shards to write indexes of, and the vectors of all their pictures."""

    folder: Path
    model: Path
    release: Release
    vectors: Vectors = field(default_factory=dict)

    @classmethod
    def made(cls, folder: Path, model: Path) -> World:
        """In an empty folder, by a model folder."""
        folder.mkdir(parents=True)
        return cls(folder, model, releases.load(model))

    def shards(self, content: Mapping[str, int]) -> str:
        """A shard set of these pictures, written once."""
        name = "-".join(f"{key}.{picture}" for key, picture in content.items())
        out = self.folder / "shards" / f"{hash(name):x}"
        if not out.is_dir():
            files = []
            for key, picture in content.items():
                files += [(f"{key}.png", tars.picture(picture)), (f"{key}.txt", f"caption {key}".encode())]
            tars.write(out / "00000.tar", files)
        return str(out / "00000.tar")

    def vector(self, picture: int) -> NDArray[np.float32]:
        """[D] of a picture."""
        if picture not in self.vectors:
            self.vectors[picture] = np.asarray(self.release.embed_images([tars.picture(picture)]), np.float32)[0]
        return self.vectors[picture]

    def difference(self, index: Path, content: Mapping[str, int]) -> str:
        """How an index differs from one of this content, "" if it does not: its keys, and the scores of each."""
        gallery = Gallery.open(index)
        questions = np.stack([self.vector(picture) for picture in range(1000, 1000 + QUESTIONS)])
        keys, matrix = list(content), np.stack([self.vector(picture) for picture in content.values()])
        for question, hits in zip(questions, gallery.search(self.release, questions, 10_000), strict=True):
            if sorted(hit.key for hit in hits) != sorted(keys):
                return f"it has {len(hits)} pictures, not the {len(keys)} expected"
            truth = dict(zip(keys, matrix @ question, strict=True))
            if any(abs(truth[hit.key] - hit.score) > 1e-3 for hit in hits):
                return "pictures have other scores than their vectors give"
        return ""


def world_of(index: Path, model: Path, folder: Path) -> tuple[World, Content]:
    """A world in the empty `folder` whose pictures are those of an index, and the index's content in it."""
    world, gallery = World.made(folder, model), Gallery.open(index)
    keys = pq.read_table(gallery.files / "rows.parquet", columns=["key"])["key"].to_pylist()
    world.vectors.update({FIRST + row: vector for row, vector in enumerate(vectors_of(gallery.files))})
    return world, {key: FIRST + row for row, key in enumerate(keys)}


@dataclass(frozen=True)
class Change:
    """A command, and what it should leave."""

    name: str
    arguments: tuple[str, ...]
    after: Content

    def argv(self, index: Path, model: Path) -> list[str]:
        """As the command line has it."""
        if self.name == "build":
            return ["index", "build", str(model), self.arguments[0], str(index), *self.arguments[1:]]
        return ["index", self.name, str(index), *self.arguments]


IVF = ("--kind", "ivf", "--option", "cells=2", "probes=2")
Pick = Callable[[World, Content, random.Random], Change]


def build(world: World, before: Content, rng: random.Random) -> Change:
    """Another index in the place of the one that is there."""
    after = {f"b{n}": rng.randrange(900) for n in range(PICTURES)}
    return Change("build", (world.shards(after), *IVF), after)


def add(world: World, before: Content, rng: random.Random) -> Change:
    """Pictures with new keys."""
    first = rng.randrange(10**6)
    more = {f"a{first + n}": rng.randrange(900) for n in range(3)}
    return Change("add", (world.shards(more),), {**before, **more})


def remove(world: World, before: Content, rng: random.Random) -> Change:
    """A few pictures, of many."""
    gone = rng.sample(list(before), 4)
    return Change("remove", tuple(gone), {key: picture for key, picture in before.items() if key not in gone})


def update(world: World, before: Content, rng: random.Random) -> Change:
    """Other pictures under keys that are there, and one that is not."""
    other = {key: rng.randrange(900) for key in (*rng.sample(list(before), 3), f"u{rng.randrange(10**6)}")}
    return Change("update", (world.shards(other),), {**before, **other})


def compact(world: World, before: Content, rng: random.Random) -> Change:
    """The same pictures, trained anew."""
    return Change("compact", (), dict(before))


CHANGES: tuple[Pick, ...] = (build, add, remove, update, compact)
