"""columns.parquet: every row, in order, under the types that its values have."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.index.flat import Flat
from eval.search import columns, live, parts
from eval.search.build import build_gallery
from eval.search.columns import write_columns
from eval.search.gallery import Gallery
from vlp.errors import UserError
from vlp.models.release import Release


@pytest.mark.parametrize("module", [columns, parts], ids=lambda module: module.__name__)
def test_docstring_examples(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


def written(folder: Path, metadata: list[object], captions: list[object]) -> pa.Table:
    rows = {
        "key": [f"k{i}" for i in range(len(metadata))],
        "captions": [json.dumps(one, ensure_ascii=False) for one in captions],
        "shard": ["/secret/place/shapes/00000.tar"] * len(metadata),
        "metadata": [json.dumps(one) for one in metadata],
    }
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    write_columns(folder)
    return pq.read_table(folder / "columns.parquet")


def test_types_are_those_of_all_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "ROWS_AT_ONCE", 3)  # so that types change from one group to the next
    metadata = [
        {"n": 1, "f": 1, "mixed": 1, "Width": 3, "tags": ["a"], "size": {"w": 1}, "huge": 2**70, "flag": True},
        {"n": None, "f": 2.5, "mixed": "x", "tags": [], "deep": {"a": {"b": {"c": {"d": {"e": 1}}}}}},
        {"n": 3, "width": 4, "tags": None, "numbers": [1, 2.5], "tables": [{"a": 1}], "key": "other", "__row__": 7},
        {"late": "só", "size": {"w": 0.5, "h": 2}, "flag": False, "": 1, "empty": None},
        [],
        {"tags": ["b", None, "c"], "mixed": [1], "line\nbreak": 1},
    ]
    captions = [{"en": "cat"}, {"zh": "猫"}, {}, {"en": "dog", "zh": "狗"}, {}, {}]
    table = written(tmp_path, metadata, captions)
    assert [(name, str(kind)) for name, kind in zip(table.column_names, table.schema.types, strict=True)] == [
        ("key", "string"),
        ("shard", "string"),
        ("caption_en", "string"),
        *(("n", "int64"), ("f", "double"), ("mixed", "string"), ("Width", "int64"), ("tags", "list<element: string>")),
        *(("size_w", "double"), ("huge", "string"), ("flag", "bool"), ("caption_zh", "string")),
        *(("deep_a_b_c_d", "string"), ("numbers", "list<element: double>"), ("tables", "string")),
        *(("metadata_key", "string"), ("metadata___row__", "int64"), ("late", "string"), ("size_h", "int64")),
        ("line break", "int64"),
    ]
    got = table.to_pydict()
    assert got["shard"] == ["shapes/00000.tar"] * 6
    assert got["key"] == [f"k{i}" for i in range(6)]
    assert got["Width"] == [3, None, 4, None, None, None]
    assert got["mixed"] == ["1", "x", None, None, None, "[1]"]
    assert got["tags"] == [["a"], [], None, None, None, ["b", None, "c"]]
    assert got["size_w"] == [1.0, None, None, 0.5, None, None]
    assert got["deep_a_b_c_d"][1] == '{"e": 1}'
    assert got["huge"][0] == str(2**70)


def test_embeddings_bring_their_columns_and_a_life_keeps_them(release: Release, tmp_path: Path) -> None:
    """clip-retrieval's own columns are metadata; after adding, removing and compacting rows and columns fit."""
    rng = np.random.default_rng(0)
    for name, start in (("one", 0), ("two", 60)):
        (tmp_path / name / "img_emb").mkdir(parents=True)
        (tmp_path / name / "metadata").mkdir()
        vectors = rng.normal(size=(60, 32)).astype(np.float32)
        np.save(tmp_path / name / "img_emb" / "img_emb_0.npy", vectors)
        keys = [str(start + i) for i in range(60)]
        rows = {
            "image_path": keys,
            "caption": ["x"] * 60,
            "number": range(start, start + 60),
            "NSFW": ["UNLIKELY"] * 60,
        }
        pq.write_table(pa.table(rows), tmp_path / name / "metadata" / "metadata_0.parquet")
    out = tmp_path / "index"
    build_gallery(release, str(tmp_path / "one"), out, kind=Flat())
    live.add(release, str(tmp_path / "two"), out)
    live.remove(["7", "8"], out)
    for _ in range(2):
        gallery = Gallery.open(out)
        question = rng.normal(size=(1, 32))
        hits = gallery.search(release, question, 120, where="number % 3 = 1 AND \"NSFW\" = 'UNLIKELY'")[0]
        every = gallery.search(release, question, 120)[0]
        assert [hit.key for hit in hits] == [hit.key for hit in every if int(hit.key) % 3 == 1]
        assert len(hits) == 39  # without 7
        assert {int(hit.key) for hit in hits} == {hit.metadata["number"] for hit in hits}
        live.compact(out)


def test_an_index_without_columns_says_what_to_do(release: Release, shards: Path, tmp_path: Path) -> None:
    gallery = build_gallery(release, str(shards), tmp_path / "index", kind=Flat())
    (gallery.files / "columns.parquet").unlink()
    about = gallery.files / "index.toml"
    about.write_text("\n".join(line for line in about.read_text().splitlines() if "columns.parquet" not in line))
    old = Gallery.open(tmp_path / "index")
    assert len(old.search(release, np.ones((1, 32)), 3)[0]) == 3
    with pytest.raises(UserError, match=r"written by an earlier version.* build the index again"):
        old.search(release, np.ones((1, 32)), 3, where="key = 'x'")
