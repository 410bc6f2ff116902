"""Galleries: built as a whole, asked only by the model that built them, and equal from shards and from embeddings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.embeddings.embed import embed
from eval.embeddings.split import EmbeddedSplit
from eval.index.flat import Flat
from eval.index.hnsw import Hnsw
from eval.search.build import build_gallery, main
from eval.search.gallery import Gallery
from vlp.errors import UserError
from vlp.lock import locked
from vlp.models import release as releases
from vlp.models.release import Release


@pytest.fixture(scope="module")
def gallery(release: Release, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return build_gallery(release, str(shards), tmp_path_factory.mktemp("g") / "index", kind=Flat())


def test_a_picture_finds_itself_with_its_captions_and_pixels(
    gallery: Gallery, release: Release, shards: Path, samples: list[Sample]
) -> None:
    split = EmbeddedSplit(release, str(shards))
    pictures = {s.key: s.image for s in samples}
    assert {s.key for s in split.samples} == set(pictures)
    for sample, hits in zip(split.samples, gallery.search(release, split.image, 3), strict=True):
        assert len(hits) == 3
        assert hits[0].score == pytest.approx(1, abs=1e-4)
        assert sample.key in [hit.key for hit in hits]
        own = next(hit for hit in hits if hit.key == sample.key)
        assert (own.captions, own.thumbnail) == (sample.captions, pictures[sample.key])


def test_another_model_is_refused_in_one_sentence(gallery: Gallery, other_model: Path) -> None:
    other = releases.load(other_model)
    with pytest.raises(UserError, match="was built by the model") as told:
        gallery.search(other, np.asarray(other.embed_texts(["red circle"])), 3)
    assert "\n" not in str(told.value)


def test_from_embeddings_the_hits_are_the_same_and_pictures_come_from_the_shards(
    gallery: Gallery, release: Release, shards: Path, tmp_path: Path
) -> None:
    embed(release, str(shards), tmp_path / "store")
    made = build_gallery(release, str(tmp_path / "store"), tmp_path / "index", kind=Hnsw())
    query = np.asarray(release.embed_texts(["gold square"]))
    one, two = gallery.search(release, query, 5)[0], made.search(release, query, 5)[0]
    assert [hit.key for hit in one] == [hit.key for hit in two]
    assert two[0].thumbnail == b""
    assert (np.asarray(two[0].picture()) == np.asarray(one[0].picture())).all()


def test_a_store_of_another_model_is_refused(release: Release, other_model: Path, shards: Path, tmp_path: Path) -> None:
    embed(releases.load(other_model), str(shards), tmp_path / "store")
    with pytest.raises(UserError, match="was embedded by the model"):
        build_gallery(release, str(tmp_path / "store"), tmp_path / "index", kind=Flat())


@pytest.mark.parametrize("file", ["index.faiss", "rows.parquet"])
def test_altered_and_missing_files_are_refused(release: Release, shards: Path, tmp_path: Path, file: str) -> None:
    path = build_gallery(release, str(shards), tmp_path / "index", kind=Flat()).files / file
    with path.open("ab") as f:
        f.write(b" ")
    with pytest.raises(UserError, match="was altered"):
        Gallery.open(tmp_path / "index")
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        Gallery.open(tmp_path / "index")
    with pytest.raises(UserError, match="is not an index"):
        Gallery.open(tmp_path)


def test_the_model_is_found_again_when_both_folders_moved(model_folder: Path, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    model_folder_copy = tmp_path / "a" / "model"
    model_folder_copy.mkdir()
    for file in model_folder.iterdir():
        (model_folder_copy / file.name).write_bytes(file.read_bytes())
    build_gallery(releases.load(model_folder_copy), str(shards), tmp_path / "a" / "index", kind=Flat())
    (tmp_path / "a").rename(tmp_path / "b")
    assert Gallery.open(tmp_path / "b" / "index").model == str(tmp_path / "b" / "model")


def test_a_folder_with_other_things_in_it_is_left_alone(release: Release, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="is not an index"):
        build_gallery(release, str(shards), tmp_path, kind=Flat())
    assert [p.name for p in tmp_path.iterdir()] == ["diary.txt"]


def test_thumbnails_are_no_larger_than_asked(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    made = build_gallery(release, str(write(tmp_path / "s", samples)), tmp_path / "i", kind=Flat(), thumbnail=20)
    hits = made.search(release, np.asarray(release.embed_texts(["pink circle"])), 4)[0]
    assert all(max(hit.picture().size) == 20 for hit in hits)


def test_the_command_takes_settings_of_the_kind(
    model_folder: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index"
    assert main([str(model_folder), str(shards), str(out), "--kind", "ivf", "--option", "cells=3", "probes=2"]) == 0
    assert Gallery.open(out).about["kind"] == {
        "name": "ivf",
        "cells": 3,
        "probes": 2,
        "codes": "float32",
        "on_disk": False,
    }
    assert "24 pictures" in capsys.readouterr().out
    with pytest.raises(UserError, match='did you mean "cells"'):
        main([str(model_folder), str(shards), str(out), "--kind", "ivf", "--option", "cell=3"])
    with pytest.raises(UserError, match="no index is called"):
        main([str(model_folder), str(shards), str(out), "--kind", "ivff"])


def test_an_index_has_one_writer(release: Release, shards: Path, tmp_path: Path) -> None:
    with locked(tmp_path, ".index.lock"), pytest.raises(UserError, match=r"index is being written by another program"):
        build_gallery(release, str(shards), tmp_path / "index", kind=Flat())
    (tmp_path / ".index.part").mkdir()  # of a build that was killed
    build_gallery(release, str(shards), tmp_path / "index", kind=Flat())
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_thumbnails_of_embeddings_are_read_from_their_shards(release: Release, shards: Path, tmp_path: Path) -> None:
    embed(release, str(shards), tmp_path / "store")
    query = np.asarray(release.embed_texts(["gold square"]))
    want = build_gallery(release, str(shards), tmp_path / "a", kind=Flat(), thumbnail=20).search(release, query, 24)
    made = build_gallery(release, str(tmp_path / "store"), tmp_path / "b", kind=Flat(), thumbnail=20)
    assert [hit.thumbnail for hit in made.search(release, query, 24)[0]] == [hit.thumbnail for hit in want[0]]


def test_thumbnails_without_pictures_are_refused(release: Release, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "own")
    embed(release, str(tmp_path / "own"), tmp_path / "store")
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(UserError, match="is gone or no longer holds"):
        build_gallery(release, str(tmp_path / "store"), tmp_path / "i", kind=Flat(), thumbnail=20)
    assert len(build_gallery(release, str(tmp_path / "store"), tmp_path / "i", kind=Flat()).vectors) == 24


def test_pictures_are_found_again_from_another_folder(
    release: Release, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shards.parent)
    embed(release, shards.name, tmp_path / "store")
    build_gallery(release, shards.name, tmp_path / "a", kind=Flat(), thumbnail=0)
    monkeypatch.chdir(tmp_path)
    build_gallery(release, "store", Path("b"), kind=Flat())
    monkeypatch.chdir("/")
    for name in "ab":
        hit = Gallery.open(tmp_path / name).search(release, np.asarray(release.embed_texts(["gold square"])), 1)[0][0]
        assert hit.picture().size == (48, 40)


def test_an_index_of_damaged_shards_says_what_it_lacks(release: Release, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "cut")
    (tmp_path / "cut" / "00001.tar").unlink()
    with pytest.raises(UserError, match="--skip-damaged"):
        build_gallery(release, str(tmp_path / "cut"), tmp_path / "i", kind=Flat())
    made = build_gallery(release, str(tmp_path / "cut"), tmp_path / "i", kind=Flat(), skip_damaged=True)
    assert (len(made.vectors), made.about["data"]["left_out"]) == (15, {"unreadable shard": 9})
