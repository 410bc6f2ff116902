"""Embedding stores: whole parts only, resumed, split over ranks, and in clip-retrieval's layout."""

from __future__ import annotations

import multiprocessing
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
from vlp.lock import locked
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
    assert [embed(release, str(shards), tmp_path, rank=r, size=2, help=False) for r in (1, 0)] == [1, 2]
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
    embed(release, str(shards), tmp_path / "a", rank=0, size=2, help=False)
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


def test_a_part_has_one_writer_and_ranks_do_not_stand_in_each_other_s_way(
    release: Release, shards: Path, tmp_path: Path
) -> None:
    with locked(tmp_path, ".part-1.lock"):
        assert embed(release, str(shards), tmp_path, rank=0, size=2) == 2
        with pytest.raises(UserError, match=r"is being written by another program \(process \d+ on"):
            embed(release, str(shards), tmp_path, rank=1, size=2, help=False)
        assert embed(release, str(shards), tmp_path, rank=1, size=2) == 0  # one that helps leaves it to its holder
    assert embed(release, str(shards), tmp_path, rank=0, size=2) == 1  # and makes parts of others that nobody makes
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".lock")]


def _rank(model: Path, shards: Path, out: Path, rank: int) -> None:
    main([str(model), str(shards), str(out), "--rank", str(rank), "--size", "3"])


@pytest.mark.slow
def test_ranks_that_begin_at_once_write_one_store(model_folder: Path, shards: Path, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=_rank, args=(model_folder, shards, tmp_path / "s", r)) for r in range(3)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0, 0]
    assert sum(len(EmbeddingStore.open(tmp_path / "s").rows(p)) for p in "012") == 24


@pytest.mark.parametrize("kind", ["img_emb", "text_emb", "metadata"])
def test_a_flipped_byte_is_noticed(release: Release, shards: Path, tmp_path: Path, kind: str) -> None:
    embed(release, str(shards), tmp_path)
    path = next((tmp_path / kind).glob("*_1.*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    store = EmbeddingStore.open(tmp_path)
    read = {"img_emb": store.images, "text_emb": store.texts, "metadata": store.rows}[kind]
    read("0")
    with pytest.raises(
        UserError, match=rf"{path.name} was altered .*; remove .*sha256_1.json and run `vlp embed` again"
    ):
        read("1")
    (tmp_path / "sha256" / "sha256_1.json").unlink()  # as the sentence says
    assert embed(release, str(shards), tmp_path) == 1
    assert len(read("1")) == 9


def test_a_store_goes_on_from_another_folder_and_by_another_name(
    release: Release, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shards.parent)
    embed(release, shards.name, tmp_path / "s", rank=0, size=2, help=False)
    monkeypatch.chdir(tmp_path)
    assert embed(replace(release, name="moved"), str(shards), Path("s")) == 1
    shards_named = {row for part in "012" for row in EmbeddingStore.open(Path("s")).rows(part)["shard"].to_pylist()}
    assert shards_named == {str(path) for path in shards.glob("*.tar")}


def cut_shards(shards: Path, folder: Path) -> str:
    """A copy of a shard set whose second tar is cut in half."""
    shutil.copytree(shards, folder)
    os.truncate(folder / "00001.tar", (folder / "00001.tar").stat().st_size // 2)
    return str(folder)


def test_a_damaged_shard_is_skipped_where_that_is_asked_for(
    release: Release, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec, skip = cut_shards(shards, tmp_path / "cut"), Ledger()
    with pytest.raises(UserError, match="--skip-damaged"):
        embed(release, spec, tmp_path / "store")
    embed(release, spec, tmp_path / "store", skip_damaged=True, skip=skip)
    store = EmbeddingStore.open(tmp_path / "store")
    kept = sum(len(store.rows(part)) for part in store.parts)
    assert kept + skip.lost == 24
    assert 0 < skip.lost < 9
    assert "00001.tar" in caplog.text


def test_a_shard_that_is_gone_leaves_an_empty_part(release: Release, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "gone")
    (tmp_path / "gone" / "00001.tar").unlink()
    skip = Ledger()
    embed(release, str(tmp_path / "gone"), tmp_path / "store", skip_damaged=True, skip=skip)
    store = EmbeddingStore.open(tmp_path / "store")
    assert [store.images(part).shape for part in store.parts] == [(9, 32), (0, 32), (6, 32)]
    assert skip.by_reason() == {"unreadable shard": 9}


@pytest.mark.parametrize("damage", ["noise", "objects", "rows that are not there", "whole numbers"])
def test_an_array_from_elsewhere_that_is_none_is_one_sentence(tmp_path: Path, damage: str) -> None:
    """In clip-retrieval's layout, which has no checksums."""
    path = tmp_path / "img_emb" / "img_emb_0.npy"
    path.parent.mkdir()
    np.save(path, np.array([{}], object) if damage == "objects" else np.ones((3, 4), np.int64), allow_pickle=True)
    if damage == "noise":
        path.write_bytes(b"noise")
    if damage == "rows that are not there":
        path.write_bytes(path.read_bytes().replace(b"(3, 4), }", b"(1 << 40, 4)}"[:9]))
    with pytest.raises(UserError, match=r"img_emb_0\.npy (is not an array|holds int64)"):
        EmbeddingStore.open(tmp_path).images("0")
