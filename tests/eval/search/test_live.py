"""An index that lives: what is added is found, what is removed never again, and other things stay as they were."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.index import Index
from eval.index.flat import Flat
from eval.index.hnsw import Hnsw
from eval.index.ivf import Ivf
from eval.index.ivf_pq import IvfPq
from eval.index.milvus import Milvus
from eval.search import live
from eval.search.build import build_gallery
from eval.search.gallery import Gallery
from eval.search.verify import problems
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


def test_drift_is_measured_and_said(release: Release, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cells that were trained on one corner of the sphere miss what is added elsewhere, until they are trained anew."""
    rng = np.random.default_rng(0)
    corner = rng.normal(size=(400, 32)) * 0.05 + np.eye(32)[0]
    out = tmp_path / "index"
    store(tmp_path / "corner", release, corner, rng.normal(size=(400, 32)))
    made = build_gallery(release, str(tmp_path / "corner"), out, kind=Ivf(cells=16, probes=4))
    store(tmp_path / "more", release, rng.normal(size=(4000, 32)), rng.normal(size=(4000, 32)), first=400)
    assert live.add_main([str(out), str(tmp_path / "more"), "--model", release.name]) == 0
    grown = Gallery.open(out).about["measured"]
    assert grown["built"] == made.about["measured"]["recall"]
    seen = capsys.readouterr().out
    assert f"{grown['recall']:.3f} ({grown['built']:.3f} when it was built)" in seen
    assert ("vlp index compact" in seen) == (grown["recall"] < grown["built"] - 0.02)


def store(folder: Path, release: Release, images: np.ndarray, texts: np.ndarray, *, first: int = 0) -> None:
    """A folder of embeddings as clip-retrieval writes it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, vectors in (("img_emb", images), ("text_emb", texts)):
        (folder / name).mkdir(parents=True)
        np.save(folder / name / f"{name}_0.npy", vectors.astype(np.float32))
    (folder / "metadata").mkdir()
    keys = [str(first + i) for i in range(len(images))]
    pq.write_table(
        pa.table({"key": keys, "caption": [f"number {key}" for key in keys]}),
        folder / "metadata" / "metadata_0.parquet",
    )
