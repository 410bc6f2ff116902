"""`vlp eval --against`: planted duplicates are found, all of them and nothing else, and left out of the metrics."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.picture_hash import Fingerprint, fingerprint_of
from data_pipelines.sample import Sample
from data_pipelines.shards.shard_set import ShardSet
from eval.configuration import read
from eval.contamination import Against, search
from eval.embeddings.cache import EmbeddingCache, cached
from eval.embeddings.together import Ranks
from eval.picture_hashes import Hashes
from eval.run import main, measure
from vlp.models.release import Release
from vlp.pictures import Limits, decode


def photograph(seed: int, *, kind: str = "png", side: int = 64) -> bytes:
    """A picture like no other: smooth noise."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC).resize((side, side)).save(file, kind, quality=90)
    return file.getvalue()


def sample(number: int, caption: str, **how: str | int) -> Sample:
    """A sample whose picture is that of this number."""
    form = str(how.get("kind", "png"))
    own = Sample(f"s{number}", photograph(number, **how), form, {"en": caption}, {"subgroup": "ab"[number % 2]})  # type: ignore[arg-type]
    return replace(own, image_format={"jpeg": "jpg"}.get(form, form))


@pytest.fixture
def planted(write: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """A test set of 20 pictures; of the training set's 60, three are theirs in another form, and two captions."""
    test = [sample(i, f"thing {i}") for i in range(20)]
    train = [sample(100 + i, f"other {i}") for i in range(60)]
    train[7] = replace(sample(3, "unlike", kind="jpeg", side=200), key="again_3")
    train[31] = replace(sample(11, "unlike too", kind="webp", side=48), key="again_11")
    train[59] = replace(sample(12, "Thing 5.", kind="jpeg", side=96), key="again_12")
    train[20] = replace(train[20], captions={"zh": "thing  17"})
    return write(tmp_path / "test", test), write(tmp_path / "train", train, per_shard=13)


def report(model: Path, test: Path, train: Path, out: Path, *flags: str) -> dict:
    assert main([str(model), str(test), "--against", str(train), "--out", str(out), "--ks", "1", *flags]) == 0
    tree: dict = json.loads((out / "report.json").read_text())
    return tree


def test_planted_pictures_and_captions_are_found_and_nothing_else(
    model_folder: Path, planted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = report(model_folder, *planted, tmp_path / "out", "--duplicate-cosine", "0")
    seen = tree["contamination"]["splits"]["test"]
    assert {(one["key"], one["train"]) for one in seen["matches"]} == {
        ("s3", "again_3"),
        ("s11", "again_11"),
        ("s12", "again_12"),
    }
    assert (seen["pictures"], seen["by_hash"], seen["by_cosine"]) == (3, 3, None)
    assert (seen["captions"], seen["of_captions"]) == (2, 20)
    assert tree["contamination"]["against"]["samples"] == 60
    assert len(tree["contamination"]["against"]["sha256"]) == 64
    sentence = "3 of 20 pictures (3 by hash) and 2 of 20 captions are in"
    assert sentence in (tmp_path / "out" / "report.html").read_text()
    assert sentence in " ".join(capsys.readouterr().out.split())


def test_metrics_without_them_are_means_over_the_rest(
    model_folder: Path, release: Release, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    tree = report(model_folder, *planted, tmp_path / "out", "--duplicate-cosine", "0")
    without = tree["contamination"]["without"]
    (part,) = measure(cached(release, None, Ranks()), read(data=[str(planted[0])]))
    pictures = [i for i in range(20) if i not in (3, 11, 12)]
    captions = [i for i in range(20) if i not in (5, 17)]
    for name, rows, kind in (
        ("test/en/image_to_text/recall@1", pictures, "pictures"),
        ("test/en/text_to_image/recall@1", pictures, "pictures"),
        ("test/en/text_to_image/recall@1", captions, "captions"),
        ("test/subgroup/acc1", pictures, "pictures"),
    ):
        values = part.measured[name].per_query
        assert values is not None
        assert without[name][kind]["value"] == pytest.approx(values[rows].mean(), abs=1e-6)
        assert without[name][kind]["queries"] == len(rows)
        low, high = without[name][kind]["interval"]
        assert low <= without[name][kind]["value"] <= high
    assert "captions" not in without["test/subgroup/acc1"]
    hits = part.measured["test/subgroup/acc1"].per_query
    assert hits is not None
    by_class = [np.mean([hits[i] for i in pictures if i % 2 == c]) for c in (0, 1)]
    left = without["test/subgroup/mean_per_class_recall"]["pictures"]["value"]
    assert left == pytest.approx(np.mean(by_class), abs=1e-6)


def test_vectors_find_what_the_hash_does_not(
    model_folder: Path, release: Release, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    """The cosine of each test picture with its nearest training picture is that of all of them at once."""
    tree = report(model_folder, *planted, tmp_path / "out", "--duplicate-cosine", "0.999")
    seen = tree["contamination"]["splits"]["test"]

    def vectors(folder: Path) -> tuple[list[str], np.ndarray]:
        from data_pipelines.shards.read_samples import read_samples

        some = list(read_samples(ShardSet.open(str(folder))))
        return [s.key for s in some], np.asarray(release.embed_images([s.image for s in some]))

    (test, image), (_, train) = (vectors(folder) for folder in planted)
    nearest = (image @ train.T).max(axis=1)
    assert seen["by_cosine"] == (nearest >= 0.999).sum()
    assert seen["by_hash"] == 3
    for one in seen["matches"]:
        assert one["cosine"] == pytest.approx(nearest[test.index(one["key"])], abs=2e-4)
        assert one["hash"] or one["cosine"] >= 0.999


def test_where_all_is_seen_no_number_is_made_up(
    model_folder: Path, planted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = report(model_folder, planted[0], planted[0], tmp_path / "out")
    assert tree["contamination"]["splits"]["test"]["pictures"] == 20
    for kinds in tree["contamination"]["without"].values():
        for left in kinds.values():
            assert left == {"queries": 0, "value": None, "interval": None}
    assert "none left" in capsys.readouterr().out


def test_the_cache_changes_nothing(release: Release, planted: tuple[Path, Path], tmp_path: Path) -> None:
    against, alone = Against(str(planted[1]), 0.99), cached(release, None, Ranks())
    parts = measure(alone, read(data=[str(planted[0])]))
    whole = search(parts, against, alone)
    cache = EmbeddingCache(tmp_path / "kept")
    for _ in range(2):
        assert search(parts, against, cached(release, cache, Ranks())) == whole
    assert (cache.hits, cache.misses) == (5, 5)


words = st.tuples(*[st.integers(0, 2**64 - 1)] * 4)


@given(st.lists(st.tuples(words, st.integers(0, 8), st.integers(0, 12)), min_size=1, max_size=12))
def test_many_hashes_at_once_are_compared_as_one_by_one(rows: list) -> None:
    rng = np.random.default_rng(0)
    first, second = [], []
    for bits, flips, shift in rows:
        number = int.from_bytes(np.array(bits, np.uint64).tobytes(), "big")
        first.append(Fingerprint(number, (100.0, 50.0, 20.0)))
        for bit in rng.choice(256, flips, replace=False):
            number ^= 1 << int(bit)
        second.append(Fingerprint(number, (100.0 + shift, 50.0, 20.0)))
    expected = {(i, j) for i, a in enumerate(first) for j, b in enumerate(second) if a.alike(b)}
    assert Hashes.of(first).alike(Hashes.of(second)) == expected


def test_hashes_are_those_of_the_pictures(samples: list[Sample]) -> None:
    prints = [fingerprint_of(decode(one.image, Limits())) for one in samples]
    hashes = Hashes.of(prints)
    assert hashes.bits.shape == (24, 4)
    assert {(i, i) for i in range(24)} <= hashes.alike(hashes)
