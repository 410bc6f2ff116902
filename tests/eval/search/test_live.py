"""An index that lives: what is added is found, what is removed never again, and other things stay as they were."""

from __future__ import annotations

import errno
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.sample import Sample
from eval.index import Index, Vectors
from eval.index.flat import Flat
from eval.index.hnsw import Hnsw
from eval.index.ivf import Ivf
from eval.index.ivf_pq import IvfPq
from eval.index.milvus import Milvus
from eval.search import build as building
from eval.search import live, versions
from eval.search.build import build_gallery
from eval.search.gallery import Gallery
from eval.search.spool import Spool
from eval.search.verify import main as verify_main
from eval.search.verify import problems
from eval.service.current import Current
from vlp.errors import UserError
from vlp.models import release as releases
from vlp.models.release import Release

Folders = tuple[Path, Path, Path]
HERE = importlib.util.find_spec("pymilvus") and importlib.util.find_spec("milvus_lite")
KINDS = (
    Flat(),
    Hnsw(),
    Ivf(cells=2, probes=2),
    IvfPq(cells=2, probes=2, pieces=8, candidates=64),
    pytest.param(Milvus(), marks=pytest.mark.skipif(not HERE, reason="pip install 'vlp[milvus]'")),
)


@pytest.fixture(scope="module")
def folders(samples: list[Sample], write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Shards of the first 18 pictures, of the other 6, and of all."""
    folder = tmp_path_factory.mktemp("live")
    return write(folder / "first", samples[:18]), write(folder / "rest", samples[18:]), write(folder / "all", samples)


def answers(gallery: Gallery, release: Release, k: int = 24) -> list[list[tuple[str, float]]]:
    queries = np.asarray(release.embed_texts(["red circle", "金方块"]))
    return [[(hit.key, round(hit.score, 4)) for hit in hits] for hits in gallery.search(release, queries, k)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_a_life_of_an_index(
    kind: Index, release: Release, folders: Folders, samples: list[Sample], tmp_path: Path
) -> None:
    first, rest, everything = folders
    out = tmp_path / "index"
    build_gallery(release, str(first), out, kind=kind)
    assert live.add(release, str(rest), out).added == 6
    wanted = answers(build_gallery(release, str(everything), tmp_path / "whole", kind=Flat()), release)
    grown = answers(Gallery.open(out), release)
    assert [{key for key, _ in row} for row in grown] == [{key for key, _ in row} for row in wanted]

    gone = {row[0][0] for row in grown} | {samples[20].key}
    assert live.remove(gone, out).removed == len(gone)
    left = {s.key for s in samples} - gone
    for row in answers(Gallery.open(out), release):
        assert {key for key, _ in row} == left

    again = live.update(release, str(rest), out)
    back = {s.key for s in samples[18:]}
    assert (again.added, again.removed) == (6, len(back - gone))
    for row in answers(Gallery.open(out), release):
        assert [key for key, _ in row] == list(dict.fromkeys(key for key, _ in row))  # each once
        assert {key for key, _ in row} == left | back
    assert problems(out) == []

    before = answers(Gallery.open(out), release)
    made = live.compact(out).gallery
    assert len(made.vectors) == len(left | back) == len(made.vectors.stored_ids())
    assert [sorted(row) for row in answers(made, release)] == [sorted(row) for row in before]
    assert problems(out) == []
    assert 0 <= made.about["measured"]["recall"] <= 1


def test_what_cannot_be_changed_is_refused_and_the_index_is_as_it_was(
    release: Release,
    folders: Folders,
    other_model: Path,
    samples: list[Sample],
    tmp_path: Path,
) -> None:
    first, rest, everything = folders
    out = tmp_path / "index"
    files = build_gallery(release, str(first), out, kind=Flat()).files
    with pytest.raises(UserError, match="already; replace pictures with: vlp index update"):
        live.add(release, str(everything), out)
    with pytest.raises(UserError, match="is given twice"):
        live.add(release, f"{rest}::{rest}", out)
    with pytest.raises(UserError, match="was built by the model"):
        live.add(releases.load(other_model), str(rest), out)
    with pytest.raises(UserError, match='has no picture with the key "nobody"'):
        live.remove([samples[0].key, "nobody"], out)
    with pytest.raises(UserError, match="no other pictures"):
        live.remove([s.key for s in samples[:18]], out)
    with pytest.raises(UserError, match="give keys"):
        live.remove_main([str(out)])
    with pytest.raises(UserError, match="is not an index"):
        live.compact(tmp_path / "none")
    assert Gallery.open(out).files == files
    assert problems(out) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]


@pytest.fixture(scope="module")
def fallen(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of sixteen subjects, and a store of as many others, between which its cells do not tell."""
    folder, rng = tmp_path_factory.mktemp("fallen"), np.random.default_rng(0)
    for name, first, count in (("index", 0, 640), ("other", 16, 960)):
        images = np.eye(32)[first + np.arange(count) % 16] + 0.05 * rng.normal(size=(count, 32))
        store(folder / name, release, images, images + 0.03 * rng.normal(size=images.shape), first=1000 * first)
    build_gallery(release, str(folder / "index"), folder / "built" / "index", kind=Ivf(cells=16, probes=3))
    return folder


def test_recall_that_falls_is_said_by_add_and_verify_and_compact_mends_it(
    release: Release, fallen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = fallen / "built" / "index"
    built = Gallery.open(out).about["measured"]["recall"]
    word = "it has fallen: `vlp index compact INDEX` trains it anew"
    assert verify_main([str(out)]) == 0
    assert word not in capsys.readouterr().out
    assert live.add_main([str(out), str(fallen / "other"), "--model", release.name]) == 0
    assert word in capsys.readouterr().out
    assert verify_main([str(out)]) == 0
    assert word in capsys.readouterr().out
    grown = Gallery.open(out)
    measured, vectors = grown.about["measured"], np.load(grown.files / "vectors.npy")
    queries = np.load(grown.files / "queries.npy")
    truth = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :10]
    got = grown.vectors.search(queries, 10).ids
    share = np.mean([len({*a} & {*b}) / 10 for a, b in zip(truth.tolist(), got.tolist(), strict=True)])
    assert measured["recall"] == pytest.approx(share, abs=1e-6)
    assert (measured["built"], measured["queries"]) == (built, 256)
    assert measured["recall"] <= built - 0.02
    current = Current(out, model=release.name)
    assert live.compact_main([str(out)]) == 0
    assert word not in capsys.readouterr().out
    assert Gallery.open(out).about["measured"]["recall"] > measured["recall"] + 0.02
    assert current.look()


@pytest.fixture
def small(release: Release, folders: Folders, tmp_path: Path) -> Path:
    """An index, alone in its folder."""
    return build_gallery(release, str(folders[0]), tmp_path / "alone" / "index", kind=Flat()).folder


def is_as_it_was(index: Path, version: str) -> bool:
    """Whether it is whole, of that version, and alone in its folder."""
    alone = [path.name for path in index.parent.iterdir()] == [index.name]
    return alone and problems(index) == [] and Gallery.open(index).files.name == version


def spoil(folder: Path, how: str) -> None:
    """Make a folder of embeddings a bad one."""
    file = folder / "img_emb" / "img_emb_0.npy"
    vectors = np.load(file)
    if how == "part":
        file.unlink()
        return
    if how == "nan":
        vectors[3, 5] = np.nan
    np.save(file, vectors[:, :20] if how == "width" else vectors)


@pytest.mark.parametrize(
    "how, sentence",
    [
        ("part", "img_emb"),
        ("nan", "NaN, infinite or zero"),
        ("width", "vectors of width 32"),
        ("twice", "is given twice"),
    ],
)
def test_bad_embeddings_are_one_sentence_and_change_nothing(
    release: Release, small: Path, tmp_path: Path, how: str, sentence: str
) -> None:
    vectors = np.random.default_rng(0).normal(size=(6, 32))
    store(tmp_path / "store", release, vectors, vectors, keys=["a", "b", "c", "d", "e", "a" if how == "twice" else "f"])
    spoil(tmp_path / "store", how)
    for main in (live.add_main, live.update_main):
        with pytest.raises(UserError, match=sentence) as caught:
            main([str(small), str(tmp_path / "store"), "--model", release.name])
        assert "\n" not in str(caught.value)
        assert is_as_it_was(small, "000001")


@pytest.mark.parametrize("where", [(Spool, "add"), (Vectors, "save"), (building, "seal"), (versions, "write_whole")])
def test_a_full_disk_is_one_sentence_and_changes_nothing(
    release: Release, folders: Folders, small: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[object, str]
) -> None:
    """Whatever is being written when it fills up: rows, the index, what says that it is whole, the pointer."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*where, full)
    for main, rest in ((live.add_main, [str(folders[1])]), (live.compact_main, [])):
        with pytest.raises(UserError, match=r"the disk is full .* what was there before is still there") as caught:
            main([str(small), *rest])
        assert "\n" not in str(caught.value)
        assert is_as_it_was(small, "000001")


def store(
    folder: Path,
    release: Release,
    images: np.ndarray,
    texts: np.ndarray,
    *,
    first: int = 0,
    keys: list[str] | None = None,
) -> None:
    """A folder of embeddings as clip-retrieval writes it."""
    for name, vectors in (("img_emb", images), ("text_emb", texts)):
        (folder / name).mkdir(parents=True)
        np.save(folder / name / f"{name}_0.npy", vectors.astype(np.float32))
    (folder / "metadata").mkdir()
    keys = keys or [str(first + i) for i in range(len(images))]
    rows = pa.table({"key": keys, "caption": [f"number {key}" for key in keys]})
    pq.write_table(rows, folder / "metadata" / "metadata_0.parquet")


OWN_KIND = """
from dataclasses import dataclass
from eval.index.flat import Flat

@dataclass(frozen=True)
class Own(Flat):
    pass
"""


def test_a_kind_of_ones_own_is_changed_where_it_is_trusted(
    release: Release, folders: Folders, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "somebody").mkdir()
    (tmp_path / "somebody" / "kind.py").write_text(OWN_KIND)
    monkeypatch.syspath_prepend(tmp_path)
    first, rest, _ = folders
    out = tmp_path / "index"
    build_gallery(release, str(first), out, kind=Flat())
    for path in out.rglob("index.toml"):
        path.write_text(path.read_text().replace('name = "flat"', 'name = "somebody.kind"'))
    for main, rest_of in (
        (live.remove_main, [samples[0].key]),
        (live.add_main, [str(rest)]),
        (live.update_main, [str(rest)]),
        (live.compact_main, []),
        (verify_main, []),
    ):
        with pytest.raises(UserError, match="trust"):
            main([str(out), *rest_of])
        assert main([str(out), *rest_of, "--trust"]) == 0
    assert len(Gallery.open(out, trust=True).vectors) == len(samples) - 1
