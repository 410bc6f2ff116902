"""Datasets of Hugging Face's `datasets`, made and saved here: pictures stay the files that they were."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.commands.build import _kind_of, main
from data_pipelines.sample import Sample
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources import Unusable
from data_pipelines.sources.datasets import Datasets
from vlp.errors import UserError

datasets = pytest.importorskip("datasets")


def jpeg(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(file, "JPEG", quality=35)
    return file.getvalue()


@pytest.fixture
def rows(tmp_path: Path) -> object:
    """Five rows: four pictures (one of them a path, one broken), one without; captions in two languages."""
    (tmp_path / "beside.jpg").write_bytes(jpeg(3))
    table = {
        "picture": [
            {"bytes": jpeg(0), "path": None},
            {"bytes": b"no picture", "path": "x.jpg"},
            None,
            {"bytes": None, "path": str(tmp_path / "beside.jpg")},
            {"bytes": jpeg(4), "path": None},
        ],
        "text": ["one", "two", "three", "four", " "],
        "zh": [["一", "壹"], [], [], [], []],
        "name": ["a", "b", "c", "d", "e"],
        "thumbnail": [{"bytes": b"never decoded", "path": None}] * 5,
    }
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "text": datasets.Value("string"),
            "zh": datasets.List(datasets.Value("string")),
            "name": datasets.Value("string"),
            "thumbnail": datasets.Image(),
        }
    )
    return datasets.Dataset.from_dict(table, features=features)


COLUMNS = {"en": "text", "zh": "zh"}


def check(items: list[Sample | Unusable]) -> None:
    good = [item for item in items if isinstance(item, Sample)]
    assert [one.image for one in good] == [jpeg(0), jpeg(3)], "a picture was decoded and encoded again"
    assert [one.captions for one in good] == [{"en": "one", "zh": "一"}, {"en": "four"}]
    assert good[0].metadata == {"name": "a", "all_captions": {"zh": ["一", "壹"]}}
    reasons = [item.reason for item in items if isinstance(item, Unusable)]
    assert reasons == ["undecodable picture", "missing picture", "missing caption"]


def test_a_saved_dataset_is_read_row_by_row(tmp_path: Path, rows: object) -> None:
    rows.save_to_disk(str(tmp_path / "saved"))  # type: ignore[attr-defined]
    check(list(Datasets(str(tmp_path / "saved"), image="picture", captions=COLUMNS).items("")))


def test_a_split_and_a_range_of_rows_can_be_named(tmp_path: Path, rows: object) -> None:
    datasets.DatasetDict({"train": rows, "val": rows}).save_to_disk(str(tmp_path / "saved"))

    def items(split: str) -> list[Sample | Unusable]:
        source = Datasets(str(tmp_path / "saved"), split=split, image="picture", captions=COLUMNS, key="name")
        return list(source.items(""))

    check(items("val"))
    [one] = items("val[3:4]")
    assert isinstance(one, Sample)
    assert one.key == "d"
    assert len(items("train[:40%]")) == 2
    with pytest.raises(UserError, match='has no split "test"; it has: train, val'):
        items("test")


def test_what_load_dataset_takes_is_streamed(tmp_path: Path, rows: object) -> None:
    (tmp_path / "hub").mkdir()
    rows.to_parquet(str(tmp_path / "hub/train-00000.parquet"))  # type: ignore[attr-defined]
    check(list(Datasets(str(tmp_path / "hub"), image="picture", captions=COLUMNS).items("")))


def test_what_is_missing_is_said(tmp_path: Path, rows: object) -> None:
    rows.save_to_disk(str(tmp_path / "saved"))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match='has no column "image"; it has: picture, text, zh, name, thumbnail'):
        list(Datasets(str(tmp_path / "saved")).items(""))
    with pytest.raises(UserError, match="there is nothing at"):
        list(Datasets(str(tmp_path / "nothing")).items(""))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        list(Datasets(str(tmp_path / "empty")).items(""))


def test_the_command_tells_saved_folders_by_their_files(
    tmp_path: Path, rows: object, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.save_to_disk(str(tmp_path / "saved"))  # type: ignore[attr-defined]
    assert _kind_of(str(tmp_path / "saved")) == "datasets"
    flags = ["--image", "picture", "--captions", "en", "text", "zh", "zh"]
    assert main([str(tmp_path / "saved"), str(tmp_path / "out"), *flags]) == 0
    assert "2 samples in 1 shards" in capsys.readouterr().out
    assert [one.key for one in read_samples(ShardSet.open(str(tmp_path / "out")))] == [
        "train-00000000",
        "train-00000003",
    ]
