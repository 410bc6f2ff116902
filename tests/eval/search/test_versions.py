"""An index folder is a row of whole versions: whatever happens to a writer, the last good one answers."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest

from eval.embeddings.embed import embed
from eval.index.flat import Flat
from eval.index.ivf import Ivf
from eval.search import build as building
from eval.search import fill
from eval.search.build import build_gallery
from eval.search.gallery import Gallery
from eval.search.verify import main as verify
from eval.search.verify import problems
from vlp.errors import UserError
from vlp.models.release import Release

BEFORE = Path(__file__).parents[2] / "written_before"


@pytest.fixture(scope="module")
def store(release: Release, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("s") / "store"
    embed(release, str(shards), out)
    return out


def test_each_build_is_a_version_and_the_one_before_the_last_is_kept(
    release: Release, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "index"
    first = build_gallery(release, str(store), out, kind=Flat())
    for _ in range(2):
        build_gallery(release, str(store), out, kind=Flat())
    assert sorted(path.name for path in (out / "versions").iterdir()) == ["000002", "000003"]
    assert Gallery.open(out).files.name == "000003"
    hits = first.search(release, np.asarray(release.embed_texts(["red circle"])), 1)  # opened before, gone since
    assert len(hits[0]) == 1


def test_an_error_leaves_the_version_that_was(
    release: Release, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "index"
    build_gallery(release, str(store), out, kind=Flat())
    with pytest.raises(UserError, match="needs at least"):
        build_gallery(release, str(store), out, kind=Ivf(cells=1000))
    assert problems(out) == []

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(building, "seal", full)
    with pytest.raises(UserError, match="the disk is full") as caught:
        build_gallery(release, str(store), out, kind=Flat())
    assert "\n" not in str(caught.value)
    assert problems(out) == []
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_verify_notices_a_flipped_bit_and_opening_does_not_read_everything(
    release: Release, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index"
    made = build_gallery(release, str(store), out, kind=Flat())
    assert verify([str(out)]) == 0
    assert "24 pictures, flat" in capsys.readouterr().out
    for file in ("index.faiss", "rows.parquet", "rows.arrow", "vectors.npy", "queries.npy"):
        whole = (made.files / file).read_bytes()
        middle = len(whole) // 2
        (made.files / file).write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(UserError, match=f"{file} was altered"):
            verify([str(out)])
        (made.files / file).write_bytes(whole)
    Gallery.open(out)
    shutil.rmtree(made.files)
    with pytest.raises(UserError, match="is gone"):
        verify([str(out)])


def test_an_index_of_the_earlier_format_opens_verifies_and_is_built_over(
    release: Release, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "index"
    shutil.copytree(BEFORE / "index", out)
    assert problems(out) == []
    rows = out / "rows.parquet"
    rows.write_bytes(rows.read_bytes()[:-9] + b"x" + rows.read_bytes()[-8:])
    assert "rows.parquet was altered" in problems(out)[0]
    build_gallery(release, str(store), out, kind=Flat())
    assert sorted(path.name for path in out.iterdir()) == ["index.toml", "versions"]
    assert problems(out) == []


def test_a_store_with_a_missing_part_or_nan_leaves_nothing(release: Release, store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "cut")
    part = next((tmp_path / "cut" / "img_emb").iterdir())
    part.unlink()
    with pytest.raises(UserError, match="has 2 of 3 parts"):
        build_gallery(release, str(tmp_path / "cut"), tmp_path / "index", kind=Flat())
    shutil.rmtree(tmp_path / "cut" / "sha256")  # as clip-retrieval writes a folder: without checksums
    (tmp_path / "cut" / "store.toml").unlink()
    with pytest.raises(UserError, match="is missing, though other files of part"):
        build_gallery(release, str(tmp_path / "cut"), tmp_path / "index", kind=Flat())
    shutil.copy(store / "img_emb" / part.name, part)
    bad = next((tmp_path / "cut" / "img_emb").iterdir())
    vectors = np.load(bad)
    vectors[1, 3] = np.nan
    np.save(bad, vectors)
    with pytest.raises(UserError, match="NaN, infinite or zero"):
        build_gallery(release, str(tmp_path / "cut"), tmp_path / "index", kind=Flat())
    np.save(bad, np.ones((len(vectors), 8), np.float32))
    other = sorted((tmp_path / "cut" / "img_emb").iterdir())[-1]
    if other == bad:
        other = sorted((tmp_path / "cut" / "img_emb").iterdir())[0]
    with pytest.raises(UserError, match="width"):
        build_gallery(release, str(tmp_path / "cut"), tmp_path / "index", kind=Flat())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut"]


def test_a_build_that_was_interrupted_goes_on_where_it_was(
    release: Release, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "BLOCK", 7)
    calls: list[int] = []
    add = fill.Vectors.add

    def interrupted(self: fill.Vectors, vectors: np.ndarray, ids: np.ndarray, *, new: bool = False) -> None:
        calls.append(int(ids[0]))
        if len(calls) == 3:
            raise KeyboardInterrupt  # what a kill leaves too: nobody tidies up
        add(self, vectors, ids, new=new)

    monkeypatch.setattr(fill.Vectors, "add", interrupted)
    out, kind = tmp_path / "index", Ivf(cells=3, probes=3)
    with pytest.raises(KeyboardInterrupt):
        build_gallery(release, str(store), out, kind=kind, saved_every_s=0)
    assert calls == [0, 7, 14]
    made = build_gallery(release, str(store), out, kind=kind, saved_every_s=0)
    assert calls == [0, 7, 14, 14, 21]
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    whole = build_gallery(release, str(store), tmp_path / "whole", kind=kind)
    query = np.asarray(release.embed_texts(["red circle", "gold square"]))
    for one, two in zip(made.search(release, query, 24), whole.search(release, query, 24), strict=True):
        assert [(hit.key, hit.score) for hit in one] == [(hit.key, hit.score) for hit in two]
