"""`vlp classify`: every vector of an index or a store gets the class that brute force gives it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from eval.embeddings.embed import embed
from eval.embeddings.store import EmbeddingStore
from eval.index.hnsw import Hnsw
from eval.prompts.classifier import classifier
from eval.search import classify
from eval.search.build import build_gallery
from eval.search.classify import main
from eval.search.live import remove
from eval.search.spool import vectors_of
from tests.eval.conftest import COLOURS
from vlp.errors import UserError
from vlp.models.release import Release

CLASSES = ",".join(COLOURS)


@pytest.fixture(scope="module")
def store(release: Release, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classified")
    embed(release, str(shards), folder / "store", dtype="float16")
    return folder / "store"


@pytest.fixture(scope="module")
def index(release: Release, shards: Path, store: Path) -> Path:
    build_gallery(release, str(shards), store.with_name("index"), kind=Hnsw())
    remove(["red_circle_0", "gold_square_1"], store.with_name("index"))  # which hnsw only leaves out
    return store.with_name("index")


def by_hand(release: Release, vectors: Any, template_set: str) -> tuple[Any, Any, Any]:
    """(order, probability, cosine) [N, C], the best class first, in double precision."""
    cosine = vectors.astype(np.float64) @ classifier(release, list(COLOURS), template_set).astype(np.float64).T
    logits = np.exp(cosine * release.encoder.logit_scale.exp().item())
    order = np.argsort(-cosine, axis=1)
    return order, np.take_along_axis(logits / logits.sum(1, keepdims=True), order, 1), -np.sort(-cosine, axis=1)


def test_an_index_is_classified_as_by_hand_without_what_was_removed(
    index: Path, release: Release, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classify, "BLOCK", 7)
    monkeypatch.setattr(classify, "NUMBERS", 3 * len(COLOURS))
    flags = ["--classes", CLASSES, "--templates", "picture", "--top", "3"]
    out, page = tmp_path / "c.parquet", tmp_path / "c.html"
    assert main([str(index), *flags, "--out", str(out), "--html", str(page)]) == 0
    gallery = classify.Gallery.open(index)
    keys = pq.read_table(gallery.files / "rows.parquet")["key"].to_pylist()
    live = [i for i, key in enumerate(keys) if key not in ("red_circle_0", "gold_square_1")]
    order, score, cosine = by_hand(release, vectors_of(gallery.files)[live], "picture")
    rows = pq.read_table(out).to_pydict()
    assert rows["key"] == [keys[i] for i in live]
    names = list(COLOURS)
    for rank, end in enumerate(("", "_2", "_3")):
        assert rows[f"class{end}"] == [names[i] for i in order[:, rank]]
        assert np.allclose(rows[f"score{end}"], score[:, rank], atol=1e-5)
        assert np.allclose(rows[f"cosine{end}"], cosine[:, rank], atol=1e-5)
    assert set(rows) == {"key", "shard", *(f"{n}{e}" for n in ("class", "score", "cosine") for e in ("", "_2", "_3"))}
    text, html = capsys.readouterr().out, page.read_text()
    for i, count in enumerate(np.bincount(order[:, 0], minlength=len(names))):
        assert (f"<q>{names[i]}</q><span>{count} pictures" in html) == (count > 0)
        assert not count or f"{names[i]} " in text
    surest = max(zip(score[:, 0], live, strict=True))[1]
    assert f'title="{keys[surest]}"' in html
    assert html.count("data:image/png;base64,") == sum(min(8, n) for n in np.bincount(order[:, 0]))


def test_a_store_is_classified_as_csv_and_its_pictures_come_from_the_shards(
    store: Path, release: Release, tmp_path: Path
) -> None:
    out, page = tmp_path / "c.csv", tmp_path / "c.html"
    assert main([str(store), "--classes", CLASSES, "--templates", "bare", "--out", str(out), "--html", str(page)]) == 0
    opened = EmbeddingStore.open(store)
    vectors = np.concatenate([opened.images(part) for part in opened.parts]).astype(np.float32)
    order, score, _ = by_hand(release, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), "bare")
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [list(COLOURS)[i] for i in order[:, 0]]
    assert np.allclose([float(row["score"]) for row in rows], score[:, 0], atol=1e-5)
    assert "data:image/png;base64," in page.read_text()


def test_bad_input_is_one_sentence_and_writes_nothing(
    index: Path, store: Path, other_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c.parquet"
    for where, flags, told in (
        (index, ["--classes", "cat,cat"], 'has "cat" twice'),
        (index, ["--classes", "cat,"], "two classes are needed"),
        (index, ["--classes", "imagenot"], 'no list of classes is called "imagenot"'),
        (index, ["--classes", "none.txt"], r"there is no list of classes none\.txt"),
        (index, ["--classes", CLASSES, "--templates", "none"], 'no set of templates is called "none"'),
        (index, ["--classes", CLASSES, "--top", "0"], "--top is 0"),
        (index, ["--classes", CLASSES, "--model", str(other_model)], "was built by the model"),
        (store, ["--classes", CLASSES, "--model", str(other_model)], "was embedded by the model"),
        (tmp_path, ["--classes", CLASSES], "holds no embeddings"),
    ):
        with pytest.raises(UserError, match=told) as error:
            main([str(where), *flags, "--out", str(out)])
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"should end in one of \.parquet, \.csv"):
        main([str(index), "--classes", CLASSES, "--out", str(tmp_path / "c.xlsx")])
    assert not list(tmp_path.iterdir())
