"""Embedding stores: whole parts only, resumed, split over ranks, and in clip-retrieval's layout."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings.embed import embed, main
from eval.embeddings.encode import data_sha256, embedded_pictures
from eval.embeddings.split import EmbeddedSplit
from eval.embeddings.store import EmbeddingStore
from vlp.errors import UserError
from vlp.models import release as releases
from vlp.models.release import Release


def test_parts_hold_what_the_model_says_in_clip_retrieval_s_layout(
    release: Release, shards: Path, tmp_path: Path
) -> None:
    assert embed(release, str(shards), tmp_path) == 3
    store = EmbeddingStore.open(tmp_path)
    split = EmbeddedSplit(release, str(shards))
    assert (store.parts, store.model) == (("0", "1", "2"), release.id)
    assert np.concatenate([store.images(p) for p in store.parts]) == pytest.approx(split.image, abs=1e-6)
    captions = [c for p in store.parts for c in store.rows(p)["caption"].to_pylist()]
    assert captions == [s.captions["en"] for s in split.samples]
    texts = np.concatenate([store.texts(p) for p in store.parts])
    assert texts == pytest.approx(np.asarray(release.embed_texts(captions)), abs=1e-5)
    assert sorted(p.name for p in (tmp_path / "img_emb").iterdir()) == [f"img_emb_{i}.npy" for i in range(3)]


def test_ranks_split_the_parts_and_a_second_run_writes_only_what_is_missing(
    release: Release, shards: Path, tmp_path: Path
) -> None:
    assert [embed(release, str(shards), tmp_path, rank=r, size=2) for r in (1, 0)] == [1, 2]
    (tmp_path / "metadata" / "metadata_1.parquet").unlink()  # as if cut off before the last file of a part
    kept = (tmp_path / "img_emb" / "img_emb_0.npy").stat().st_mtime_ns
    assert embed(release, str(shards), tmp_path) == 1
    assert (tmp_path / "img_emb" / "img_emb_0.npy").stat().st_mtime_ns == kept
    assert embed(release, str(shards), tmp_path) == 0


def test_a_store_of_another_model_or_dtype_is_not_mixed(
    release: Release, other_model: Path, shards: Path, tmp_path: Path
) -> None:
    embed(release, str(shards), tmp_path)
    with pytest.raises(UserError, match="another model"):
        embed(releases.load(other_model), str(shards), tmp_path)
    with pytest.raises(UserError, match="another dtype"):
        embed(release, str(shards), tmp_path, dtype="float16")


def test_an_unfinished_store_and_a_folder_without_embeddings_are_refused(
    release: Release, shards: Path, tmp_path: Path
) -> None:
    embed(release, str(shards), tmp_path / "a", rank=0, size=2)
    with pytest.raises(UserError, match="2 of 3 parts"):
        EmbeddingStore.open(tmp_path / "a")
    with pytest.raises(UserError, match="no embeddings"):
        EmbeddingStore.open(tmp_path)


def test_an_undecodable_picture_is_left_out_counted_and_named(
    release: Release,
    samples: list[Sample],
    write: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = replace(samples[1], image=samples[1].image[:60])
    split = EmbeddedSplit(release, str(write(tmp_path / "s", [samples[0], broken, samples[2]])))
    assert [s.key for s in split.samples] == [samples[0].key, samples[2].key]
    assert split.image.shape[0] == 2
    assert split.skipped.by_reason() == {"undecodable picture": 1}
    assert broken.key in caplog.text


def test_a_truncated_shard_is_refused(release: Release, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "s")
    tar = tmp_path / "s" / "00001.tar"
    os.truncate(tar, tar.stat().st_size // 2)
    with pytest.raises(UserError, match=r"00001\.tar"):
        list(embedded_pictures(release, ShardSet.open(str(tmp_path / "s")), Ledger()))


def test_the_data_s_sha256_is_the_same_with_and_without_a_manifest(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "s")
    (tmp_path / "s" / "manifest.json").unlink()
    known = data_sha256(ShardSet.open(str(shards)))
    assert data_sha256(ShardSet.open(str(tmp_path / "s"))) == known
    with (tmp_path / "s" / "00000.tar").open("r+b") as file:
        file.write(b"x")
    assert data_sha256(ShardSet.open(str(tmp_path / "s"))) != known


def test_the_command_embeds_a_shard_set(model_folder: Path, shards: Path, tmp_path: Path) -> None:
    assert main([str(model_folder), str(shards), str(tmp_path / "store"), "--dtype", "float16"]) == 0
    assert EmbeddingStore.open(tmp_path / "store").images("0").dtype == np.float16


@pytest.mark.parametrize("rank, size", [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_that_cannot_be_is_refused(release: Release, shards: Path, tmp_path: Path, rank: int, size: int) -> None:
    with pytest.raises(UserError, match="ranks are numbers from 0 to size - 1"):
        embed(release, str(shards), tmp_path, rank=rank, size=size)
    assert not list(tmp_path.iterdir())
