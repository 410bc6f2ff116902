"""Vectors of a store by shard and key: those that were written, wherever the shards lie, and none that is not there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipelines.settings import Captions, Workers
from data_pipelines.stream import OpenSources, Stream
from eval.embeddings import by_sample
from eval.embeddings.by_sample import BySample
from eval.embeddings.embed import embed
from eval.embeddings.store import EmbeddingStore
from vlp.batch import Embeddings
from vlp.errors import UserError
from vlp.models.image_transform import EvaluationCrop
from vlp.models.release import Release
from vlp.teachers import Given
from vlp.teachers.frozen import Frozen
from vlp.teachers.stored import Stored
from vlp.training.teaching import Setting

NONE = Embeddings(*[torch.zeros(0)] * 4)


@pytest.fixture(scope="module")
def stored(release: Release, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors") / "both"
    embed(release, str(shards), folder, dtype="float16")
    return folder


def sources(spec: Path | str) -> OpenSources:
    opened = Stream(shards=str(spec)).sources()
    assert isinstance(opened, OpenSources)
    return opened


def samples(shards: Path) -> tuple[list[str], list[str]]:
    """(shard, key) of every sample, in an order of its own."""
    opened = sources(shards).shards[0]
    every = [(url, key) for row, url in enumerate(opened.urls) for key in opened[row].index.keys]
    order = np.random.default_rng(0).permutation(len(every))
    return [every[i][0] for i in order], [every[i][1] for i in order]


def test_each_sample_has_the_vectors_that_were_written(
    stored: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_sample, "MOST_OPEN", 1)  # parts come and go
    store, vectors = EmbeddingStore.open(stored), BySample(stored)
    known = {}
    for part in store.parts:
        keys = store.rows(part)["key"].to_pylist()
        known |= dict(zip(keys, zip(store.images(part), store.texts(part), strict=True), strict=True))
    names, keys = samples(shards)
    for where in (names, [str(tmp_path / "elsewhere" / Path(name).name) for name in names]):
        image, text = vectors.of(where, keys)
        assert image.dtype == text.dtype == np.float32
        assert image == pytest.approx(np.stack([known[key][0] for key in keys]), abs=1e-3)
        assert text == pytest.approx(np.stack([known[key][1] for key in keys]), abs=1e-3)
        assert np.linalg.norm(image, axis=1) == pytest.approx(1, abs=1e-6)
    assert vectors.width == 32
    assert len(vectors.recent.kept) <= 3


def test_a_stored_teacher_says_what_the_model_would(
    stored: Path, shards: Path, model_folder: Path, release: Release
) -> None:
    """Of pictures as they are, and of first captions; through the stream and its workers' columns."""
    stream = Stream(shards=str(shards), captions=Captions(weights={"en": 1.0}), workers=Workers(count=0))
    crop = EvaluationCrop(release.transform)
    given = Given(release.tokenizer, BySample)
    frozen, looked = Frozen(str(model_folder)).open(given), Stored(str(stored)).open(given)
    for guide in (frozen, looked):
        guide.begin(release.encoder, Setting(torch.device("cpu")))
    assert frozen.width == looked.width
    loader = stream.open(transform=crop, tokenizer=release.tokenizer, global_batch=8)
    for batch, _ in zip(loader, range(4), strict=False):
        for a, b in zip(frozen(batch, NONE), looked(batch, NONE), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


def test_what_is_lacking_is_counted_and_one_is_named(
    release: Release, stored: Path, shards: Path, tmp_path: Path
) -> None:
    BySample(stored).refuse_lacking(sources(shards))
    partly = tmp_path / "partly"
    embed(release, str(shards / "00000.tar"), partly)
    with pytest.raises(UserError, match=r"partly lacks 15 of the 24 samples of this run, such as \w+ of .*00001\.tar"):
        BySample(partly).refuse_lacking(sources(shards))
    with pytest.raises(UserError, match=r"has no vector of nobody of .*00000\.tar; embed the shards"):
        BySample(stored).of([str(shards / "00000.tar")], ["nobody"])
    with pytest.raises(UserError, match=r"has no vector of \w+ of 00007\.tar"):
        BySample(stored).of(["00007.tar"], ["red_circle_0"])


def test_what_could_not_be_read_is_not_lacking(release: Release, shards: Path, tmp_path: Path) -> None:
    """A picture that is damaged is no row, and no sample of a run."""
    damaged = tmp_path / "damaged"
    shutil.copytree(shards, damaged)
    index = sources(shards).shards[0][0].index
    start, length = index.spans[4][0].tolist()
    with (damaged / "00000.tar").open("r+b") as file:
        file.seek(start)
        file.write(bytes(length))
    embed(release, str(damaged), tmp_path / "vectors")
    vectors = BySample(tmp_path / "vectors")
    vectors.refuse_lacking(sources(damaged))
    assert vectors.lacks(str(damaged / "00000.tar"), index.keys) == []
    with pytest.raises(UserError, match=f"has no vector of {index.keys[4]} of"):
        vectors.of([str(damaged / "00000.tar")], [index.keys[4]])


def test_a_store_of_pictures_says_the_same_of_captions_and_another_kind_of_store_is_refused(
    release: Release, stored: Path, shards: Path, tmp_path: Path
) -> None:
    embed(release, str(shards), tmp_path / "pictures", what="images")
    image, text = BySample(tmp_path / "pictures").of(*samples(shards))
    assert np.array_equal(image, text)
    both = BySample(stored)
    assert image == pytest.approx(both.of(*samples(shards))[0], abs=1e-3)
    assert both.id != BySample(tmp_path / "pictures").id
    theirs = tmp_path / "theirs"
    shutil.copytree(stored, theirs)
    (theirs / "store.toml").unlink()
    with pytest.raises(UserError, match="was not written by `vlp embed`"):
        BySample(theirs)
    with pytest.raises(UserError, match="holds no embeddings"):
        BySample(shards)
