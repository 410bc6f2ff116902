"""Each rule against brute force in numpy, and against faults that were planted."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_pipelines.sample import Sample
from eval.embeddings.store import EmbeddingStore
from eval.filtering import pool as pools
from eval.filtering.clusters import Clusters, sort
from eval.filtering.kept import Kept
from eval.filtering.pool import Pool, open_pool
from eval.filtering.rules import near_duplicates
from eval.filtering.rules.clip_score import ClipScore
from eval.filtering.rules.decontaminate import Decontaminate
from eval.filtering.rules.near_duplicates import NearDuplicates, repeats
from eval.filtering.rules.reference import Reference

Floats = NDArray[np.float32]
COUNT, DIM, BLOBS = 90, 16, 6
TINY = b"\x89PNG"  # nothing is decoded where only vectors are compared


def unit(vectors: NDArray[np.floating]) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


class World:
    """Samples in shards, with vectors around a few centres; every third says it in Chinese, two artists drew them."""

    def __init__(self, folder: Path, write: Callable[..., Path], embeddings: Callable[..., Path]) -> None:
        rng = np.random.default_rng(0)
        self.blob = rng.integers(0, BLOBS, COUNT)
        self.middle = unit(rng.normal(size=(BLOBS, DIM)))
        spread = np.where(np.arange(COUNT) % 4, 0.3, 0.02)[:, None]
        self.image = unit(self.middle[self.blob] + spread * rng.normal(size=(COUNT, DIM)) / 4)
        self.text = unit(self.image + 0.8 * rng.normal(size=(COUNT, DIM)) / 4)
        self.language = ["zh" if n % 3 == 0 else "en" for n in range(COUNT)]
        self.samples = [
            Sample(f"s{n:03d}", TINY, "png", {self.language[n]: f"thing {n}"}, {"artist": f"artist {n % 2}"})
            for n in range(COUNT)
        ]
        self.folder = folder
        self.shards = write(folder / "shards", self.samples)
        self.store = embeddings(folder / "store", self.samples, self.image, self.text, of=self.shards)

    def pool(self, folder: Path) -> Pool:
        return open_pool(str(self.shards), EmbeddingStore.open(self.store), Kept(folder))


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, write: Callable[..., Path], embeddings: Callable[..., Path]
) -> World:
    return World(tmp_path_factory.mktemp("filtering"), write, embeddings)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there are several of everything."""
    monkeypatch.setattr(pools, "BLOCK", 32)
    monkeypatch.setattr(near_duplicates, "BLOCK", 32)
    monkeypatch.setattr(near_duplicates, "COMPARED", 5)


@pytest.fixture
def pool(world: World, tmp_path: Path) -> Pool:
    return world.pool(tmp_path / "pool")


STAYS = np.arange(COUNT) % 10 != 7  # some are out before


def test_each_sample_has_its_own_vectors(world: World, pool: Pool) -> None:
    some = np.array([88, 3, 40, 3], np.int64)
    assert np.allclose(pool.vectors(some), world.image[some], atol=1e-6)
    assert np.allclose(pool.vectors(some, "text"), world.text[some], atol=1e-6)
    assert [pool.name(int(n)) for n in some[:2]] == ["00009.tar/s088", "00000.tar/s003"]


def test_scores_below_the_bound_are_left_out(world: World, pool: Pool, tmp_path: Path) -> None:
    verdict = ClipScore(least=0.75).judge(pool, STAYS, Kept(tmp_path))
    score = (world.image * world.text).sum(axis=1)
    assert 10 < (score < 0.75).sum() < 80
    assert np.array_equal(verdict.out, STAYS & (score < 0.75))
    assert np.allclose(verdict.score[STAYS], score[STAYS], atol=1e-6)
    assert np.isnan(verdict.score[~STAYS]).all()


@pytest.mark.parametrize("by", ["", "language", "artist"])
def test_the_best_share_stays_of_each_group(world: World, pool: Pool, tmp_path: Path, by: str) -> None:
    verdict = ClipScore(share=0.3, by=by).judge(pool, STAYS, Kept(tmp_path))
    score = (world.image * world.text).sum(axis=1)
    group = {"": ["all"] * COUNT, "language": world.language, "artist": [f"artist {n % 2}" for n in range(COUNT)]}[by]
    best: set[int] = set()
    for name in sorted(set(group)):
        members = sorted((n for n in range(COUNT) if group[n] == name and STAYS[n]), key=lambda n: -score[n])
        kept = members[: math.ceil(0.3 * len(members))]
        best |= set(kept)
        told = verdict.about["groups"][name]
        assert (told["samples"], told["stay"]) == (len(members), len(kept))
        assert told["bound"] == pytest.approx(score[kept[-1]], abs=1e-5)
    assert set(np.flatnonzero(STAYS & ~verdict.out).tolist()) == best


def test_swapped_captions_have_the_lowest_scores(world: World, tmp_path: Path, embeddings: Callable[..., Path]) -> None:
    text = unit(world.image + 0.3 * np.random.default_rng(1).normal(size=(COUNT, DIM)) / 4)
    swapped = [int(np.flatnonzero(world.blob == blob)[0]) for blob in range(BLOBS)]
    text[swapped] = text[np.roll(swapped, 1)]
    store = embeddings(tmp_path / "store", world.samples, world.image, text, of=world.shards)
    pool = open_pool(str(world.shards), EmbeddingStore.open(store), Kept(tmp_path / "pool"))
    verdict = ClipScore(share=1 - BLOBS / COUNT).judge(pool, pool.has_vector, Kept(tmp_path / "rule"))
    assert np.flatnonzero(verdict.out).tolist() == sorted(swapped)


def brute_repeats(vectors: Floats, eps: float, *, chains: bool) -> tuple[list[bool], list[int]]:
    """(which are left out, the nearest earlier one that counts), one after the other."""
    out, like = list[bool](), list[int]()
    for n in range(len(vectors)):
        earlier = [j for j in range(n) if chains or not out[j]]
        cosines = [float(vectors[j] @ vectors[n]) for j in earlier]
        like.append(earlier[int(np.argmax(cosines))] if cosines else -1)
        out.append(bool(cosines) and max(cosines) >= 1 - eps)
    return out, like


@pytest.mark.parametrize("chains", [False, True])
@pytest.mark.parametrize("eps", [0.001, 0.05, 0.5])
def test_repeats_are_those_of_brute_force(world: World, eps: float, *, chains: bool) -> None:
    found = repeats(lambda rows: world.image[rows], COUNT, eps, chains=chains)
    out, like = brute_repeats(world.image, eps, chains=chains)
    assert found["out"].tolist() == out
    assert found["like"].tolist() == like
    assert np.allclose(found["score"][1:], [world.image[like[n]] @ world.image[n] for n in range(1, COUNT)], atol=1e-6)
    assert np.isnan(found["score"][0])
    if chains:
        assert set(np.flatnonzero(brute_repeats(world.image, eps, chains=False)[0])) <= set(np.flatnonzero(out))


@pytest.mark.parametrize("keep", ["far", "near"])
@pytest.mark.parametrize("clusters", [1, 6, 0])
def test_of_near_duplicates_in_a_cluster_one_stays(
    world: World, pool: Pool, tmp_path: Path, clusters: int, keep: Any
) -> None:
    rule = NearDuplicates(clusters=clusters, eps=0.05, keep=keep)
    verdict = rule.judge(pool, STAYS, Kept(tmp_path))
    at = sort(pool, STAYS, Kept(tmp_path), Clusters(clusters=clusters))
    assert at.numbers.tolist() == np.flatnonzero(STAYS).tolist()
    nearest = np.argmax(world.image[at.numbers] @ at.centres.T, axis=1)
    assert at.cell.tolist() == nearest.tolist()
    assert len(at.centres) == (clusters or round(math.sqrt(STAYS.sum())))
    expected = set[int]()
    for cell in range(len(at.centres)):
        members = at.numbers[nearest == cell]
        toward = world.image[members] @ at.centres[cell]
        order = members[np.argsort(toward if keep == "far" else -toward, kind="stable")]
        expected |= set(order[np.flatnonzero(brute_repeats(world.image[order], 0.05, chains=False)[0])].tolist())
    out = set(np.flatnonzero(verdict.out).tolist())
    assert out == expected
    assert out
    for number in out:  # each has a double that stays
        other = int(verdict.like[number])
        assert STAYS[other]
        assert not verdict.out[other]
        assert world.image[number] @ world.image[other] >= 0.95 - 1e-6


def test_planted_doubles_are_found_wherever_their_shards_are(
    world: World, tmp_path: Path, write: Callable[..., Path], embeddings: Callable[..., Path]
) -> None:
    """One of each pair goes, the same one in either order of the shards."""
    rng = np.random.default_rng(2)
    image = unit(rng.normal(size=(COUNT, 64)))
    doubles = {n: n + 45 for n in range(0, 20, 2)}
    for one, other in doubles.items():
        image[other] = unit(image[one] + 0.01 * rng.normal(size=64))
    image[50] = image[10]  # and one that is the very same
    gone = []
    store = embeddings(tmp_path / "store", world.samples, image)
    tars = sorted(str(path) for path in world.shards.glob("*.tar"))
    for name, order in (("a", tars), ("b", tars[::-1])):
        pool = open_pool("::".join(order), EmbeddingStore.open(store), Kept(tmp_path / name))
        verdict = NearDuplicates(clusters=4, eps=0.02).judge(pool, pool.has_vector, Kept(tmp_path / f"rule-{name}"))
        gone.append({pool.name(int(n)).rpartition("/")[2] for n in np.flatnonzero(verdict.out)})
    assert gone[0] == gone[1]
    pairs = [{f"s{one:03d}", f"s{other:03d}"} for one, other in [*doubles.items(), (10, 50)] if one != 10]
    assert all(len(pair & gone[0]) == 1 for pair in pairs)
    assert len({"s010", "s050", "s055"} & gone[0]) == 2
    assert len(gone[0]) == len(pairs) + 2


def test_the_clusters_of_a_reference_stay(
    world: World, pool: Pool, tmp_path: Path, embeddings: Callable[..., Path]
) -> None:
    like = unit(world.middle[[1, 4]] + 0.01)
    store = embeddings(tmp_path / "like", world.samples[:2], like)
    for clusters in (BLOBS, 0):
        kept = Kept(tmp_path / f"{clusters}")
        rule = Reference(clusters=clusters, like=str(store))
        verdict = rule.judge(pool, STAYS, kept)
        at = sort(pool, STAYS, kept, rule)
        hit = set(np.argmax(like @ at.centres.T, axis=1).tolist())
        nearest = np.argmax(world.image @ at.centres.T, axis=1)
        assert np.array_equal(verdict.out, STAYS & ~np.isin(nearest, list(hit)))
        assert verdict.about["clusters_of_the_reference"] == len(hit)
        if clusters:  # each blob is a cluster
            assert np.array_equal(STAYS & ~verdict.out, STAYS & np.isin(world.blob, [1, 4]))


def picture(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(values).resize((64, 64), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=90)
    return file.getvalue()


def test_planted_test_pictures_are_found(
    tmp_path: Path, write: Callable[..., Path], embeddings: Callable[..., Path]
) -> None:
    """By hash: re-encoded and scaled ones, even without vectors; by vector: those near to a test's."""
    rng = np.random.default_rng(3)
    tests = [Sample(f"t{n}", encoded(picture(100 + n), "png"), "png", {"en": "t"}) for n in range(5)]
    train = [Sample(f"s{n}", encoded(picture(n), "png"), "png", {"en": "s"}) for n in range(12)]
    train[3] = Sample("s3", encoded(picture(101), "jpeg"), "jpg", {"en": "s"})
    train[7] = Sample("s7", encoded(picture(104).resize((48, 48)), "webp"), "webp", {"en": "s"})
    train[8] = Sample("s8", b"\x89PNG but no more", "png", {"en": "s"})
    image, seen = unit(rng.normal(size=(12, DIM))), unit(rng.normal(size=(5, DIM)))
    image[9] = unit(seen[2] + 0.02 * rng.normal(size=DIM))
    shards, of_tests = write(tmp_path / "train", train), write(tmp_path / "tests", tests)
    pool = open_pool(str(shards), EmbeddingStore.open(embeddings(tmp_path / "a", train, image)), Kept(tmp_path / "p"))
    vectors = embeddings(tmp_path / "b", tests, seen, seen, of=of_tests)
    stays = np.ones(12, bool)

    both = Decontaminate(against=(str(vectors),), cosine=0.9)
    verdict = both.judge(pool, stays, Kept(tmp_path / "both"))
    assert {n: verdict.reasons[verdict.reason[n] - 1] for n in np.flatnonzero(verdict.out)} == {
        3: "picture of a test, by hash",
        7: "picture of a test, by hash",
        9: "picture of a test, by vector",
    }
    names = [both.named(pool, int(verdict.like[n])) for n in (3, 7, 9)]
    assert names == ["tests/00000.tar/t1", "tests/00000.tar/t4", "tests/00000.tar/t2"]
    assert both.liked(pool, int(verdict.like[9])) == ("tests/00000.tar/t2", tests[2].image)
    assert np.allclose(verdict.score, (image @ seen.T).max(axis=1), atol=1e-6)
    assert verdict.about["not_hashed"] == 1

    by_hash = Decontaminate(against=(str(of_tests),)).judge(pool, stays, Kept(tmp_path / "hash"))
    assert np.flatnonzero(by_hash.out).tolist() == [3, 7]
    by_vector = Decontaminate(against=(str(vectors),), hashes=False, cosine=0.9)
    assert np.flatnonzero(by_vector.judge(pool, stays, Kept(tmp_path / "v")).out).tolist() == [9]


def test_what_was_computed_is_not_computed_again(world: World, pool: Pool, tmp_path: Path) -> None:
    rules: Sequence[Any] = [ClipScore(share=0.5), NearDuplicates(eps=0.1), Reference(like=str(world.store))]
    for number, rule in enumerate(rules):
        kept = Kept(tmp_path / f"{number}")
        first = rule.judge(pool, STAYS, kept)
        files = {path: path.stat().st_mtime_ns for path in kept.folder.glob("*.npy")}
        assert len(files) >= 3
        pool.stored.store = None  # type: ignore[assignment]
        again = rule.judge(pool, STAYS, kept)
        pool.stored.store = EmbeddingStore.open(world.store)
        assert np.array_equal(first.reason, again.reason)
        assert {path: path.stat().st_mtime_ns for path in kept.folder.glob("*.npy")} == files
