"""Kinds of input: each reads what people have, in a fixed order, and names what it cannot use."""

from __future__ import annotations

import io
import json
import pkgutil
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import data_pipelines.sources as package
from data_pipelines.commands.build import _kind_of, build
from data_pipelines.sample import Sample
from data_pipelines.sources import LONGEST_KEY, Source, Unusable, as_stored, safe_key
from data_pipelines.sources.coco_captions import CocoCaptions
from data_pipelines.sources.folder import Folder
from data_pipelines.sources.img2dataset import Img2Dataset
from data_pipelines.sources.parquet import Parquet
from vlp.config import component
from vlp.errors import UserError


def png(colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(file, "PNG")
    return file.getvalue()


def good(items: list[Sample | Unusable]) -> list[Sample]:
    return [item for item in items if isinstance(item, Sample)]


def bad(items: list[Sample | Unusable]) -> list[tuple[str, str]]:
    return [(item.reason, item.where) for item in items if isinstance(item, Unusable)]


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(package.__path__)])
def test_every_file_defines_one_source_whose_fields_are_explained(name: str) -> None:
    cls = component(Source, name)
    text = Path(str(package.__path__[0]), f"{name}.py").read_text()
    assert cls.__doc__
    for item in fields(cls):
        assert f"    {item.name}:" in text
        assert text.split(f"    {item.name}:", 1)[1].split("\n")[1].strip().startswith('"""'), (
            f"{item.name} is not explained"
        )


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
def test_keys_are_plain_and_distinct_names_stay_distinct(one: str, other: str) -> None:
    key = safe_key(one)
    assert len(key) <= LONGEST_KEY
    assert key.isascii()
    assert not set(key) & set("./ \\")
    assert (key == safe_key(other)) == (one == other)


@pytest.mark.parametrize(("one", "other"), [("a/b", "a-b"), ("a b", "a_b"), ("a/b-c", "a-b/c"), ("x" * 99, "x" * 100)])
def test_keys_that_look_alike_stay_distinct(one: str, other: str) -> None:
    assert safe_key(one) != safe_key(other)


def test_folder_reads_captions_wherever_they_are(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}.png").write_bytes(png())
    (tmp_path / "a.txt").write_text(" from text \n")
    (tmp_path / "b.json").write_text(json.dumps({"captions": {"en": "two", "zh": "二"}, "tags": {"en": ["x"]}}))
    (tmp_path / "metadata.jsonl").write_text(
        json.dumps({"file_name": "c.png", "text": "from list", "source": "me"}) + "\n"
    )
    items = list(Folder(tmp_path).items(""))
    captions = {s.key: s.captions for s in good(items)}
    assert captions == {"a": {"en": "from text"}, "b": {"en": "two", "zh": "二"}, "c": {"en": "from list"}}
    assert {s.key: s.metadata for s in good(items)}["b"] == {"tags": {"en": ["x"]}}
    assert {s.key: s.metadata for s in good(items)}["c"] == {"source": "me"}
    assert bad(items) == [("missing caption", "d.png")]
    assert items == list(Folder(tmp_path).items(""))


def test_folder_reads_a_csv_list(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,a red square\n")
    [sample] = good(list(Folder(tmp_path, language="fr").items("")))
    assert sample.captions == {"fr": "a red square"}
    (tmp_path / "metadata.csv").write_text("name,text\na.png,a red square\n")
    with pytest.raises(UserError, match="has no file_name; it has: name, text"):
        list(Folder(tmp_path).items(""))


def test_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no picture"):
        list(Folder(tmp_path).items(""))
    with pytest.raises(UserError, match="is not a folder"):
        list(Folder(tmp_path / "x").items(""))


def test_coco_keeps_every_caption(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(png())
    tree = {
        "images": [
            {"id": 7, "file_name": "one.png"},
            {"id": 3, "file_name": "gone.png"},
            {"id": 9, "file_name": "mute.png"},
        ],
        "annotations": [
            {"id": 2, "image_id": 7, "caption": "second"},
            {"id": 1, "image_id": 7, "caption": "first"},
            {"id": 3, "image_id": 3, "caption": "lost"},
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(tree))
    items = list(CocoCaptions(tmp_path / "captions.json").items(""))
    [sample] = good(items)
    assert sample.captions == {"en": "first"}
    assert sample.metadata["all_captions"] == {"en": ["first", "second"]}
    assert [reason for reason, _ in bad(items)] == ["missing picture", "missing caption"]
    (tmp_path / "captions.json").write_text("{}")
    with pytest.raises(UserError, match="is not a COCO captions file"):
        list(CocoCaptions(tmp_path / "captions.json").items(""))


def test_parquet_reads_bytes_structs_and_paths(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "p.png").write_bytes(png(9))
    rows = [{"bytes": png(1), "path": None}, {"bytes": None, "path": "p.png"}, {"bytes": None, "path": None}]
    table = pa.table({"image": rows, "text": ["one", "two", "three"], "zh": ["一", None, "三"], "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "t.parquet")
    items = list(Parquet(tmp_path, captions={"en": "text", "zh": "zh"}).items(""))
    assert [s.captions for s in good(items)] == [{"en": "one", "zh": "一"}, {"en": "two"}]
    assert [s.metadata["n"] for s in good(items)] == [1, 2]
    assert good(items)[1].image == png(9)
    assert bad(items) == [("missing picture", "t-00000002")]
    with pytest.raises(UserError, match='has no column "caption"; it has: image, text, zh, n'):
        list(Parquet(tmp_path, captions={"en": "caption"}).items(""))


def test_existing_shards_are_cut_anew_without_loss(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(3):
        (pictures / f"p{i}.png").write_bytes(png(i))
        (pictures / f"p{i}.json").write_text(json.dumps({"caption": f"red {i}", "url": f"u{i}", "similarity": 0.3}))
    build(Folder(pictures), tmp_path / "first")
    [again] = build(Img2Dataset(str(tmp_path / "first")), tmp_path / "second")
    assert again.samples == 3
    assert (tmp_path / "first/00000.tar").read_bytes() == (tmp_path / "second/00000.tar").read_bytes()


def test_kinds_are_told_from_paths(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").touch()
    (tmp_path / "c.json").touch()
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/0.tar").touch()
    told = {name: _kind_of(str(tmp_path / name)) for name in ("x.parquet", "c.json", "tars", "tars/0.tar")}
    assert told == {
        "x.parquet": "parquet",
        "c.json": "coco_captions",
        "tars": "img2dataset",
        "tars/0.tar": "img2dataset",
    }
    assert _kind_of("emoji") == "emoji"
    (tmp_path / "y.zip").touch()
    with pytest.raises(UserError, match="name the kind of source"):
        _kind_of(str(tmp_path / "y.zip"))


def test_pictures_are_stored_as_they_are_where_shards_can() -> None:
    assert as_stored(png()) == (png(), "png")
    file = io.BytesIO()
    Image.new("P", (4, 4)).save(file, "GIF")
    stored = as_stored(file.getvalue())
    assert stored is not None
    assert stored[1] == "png"
    assert as_stored(b"text") is None
    assert as_stored(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n") is None  # would run a program
