"""Folders of `datasets`: names of classes, captions, splits; and what is missing or does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from eval.configuration import opened
from eval.datasets.hf_disk import HfDisk
from vlp.errors import UserError

Read = Callable[..., list[Sample]]


@pytest.fixture
def saved(tmp_path: Path, drawn: list[Sample]) -> Path:
    """Splits train and test of four rows each, with a column of classes and one of captions."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog", "cow"]),
            "caption": [datasets.Value("string")],
            "where": datasets.Value("string"),
        }
    )

    def split(some: list[Sample]) -> datasets.Dataset:
        rows: dict[str, Any] = {
            "image": [{"bytes": s.image, "path": None} for s in some],
            "label": [0, 2, 1, 0],
            "caption": [[f"caption {i}", "another"] for i in range(4)],
            "where": ["here"] * 4,
        }
        return datasets.Dataset.from_dict(rows, features=features)

    both = datasets.DatasetDict({"train": split(drawn[:4]), "test": split(drawn[4:8])})
    both.save_to_disk(str(tmp_path / "pets"))
    return tmp_path / "pets"


def test_rows_become_samples(saved: Path, read: Read, drawn: list[Sample]) -> None:
    dataset = opened(str(saved))
    assert dataset == HfDisk(root=str(saved))
    samples = read(dataset)
    assert [s.image for s in samples] == [s.image for s in drawn[4:8]]
    assert [s.metadata["class"] for s in samples] == ["cat", "cow", "dog", "cat"]
    assert samples[1].said("en") == ["caption 1", "another"]
    assert samples[0].metadata["where"] == "here"
    assert (dataset.protocol.classes, dataset.protocol.multi_label) == (("cat", "dog", "cow"), False)
    assert [s.image for s in read(HfDisk(root=str(saved), split="train"))] == [s.image for s in drawn[:4]]


def test_a_list_of_classes_gives_other_names(saved: Path, tmp_path: Path, read: Read) -> None:
    (tmp_path / "zh.txt").write_text("猫\n狗\n牛\n", encoding="utf-8")
    dataset = HfDisk(root=str(saved), classes=str(tmp_path / "zh.txt"), templates="picture_zh")
    assert [s.metadata["class"] for s in read(dataset)] == ["猫", "牛", "狗", "猫"]
    assert "{}的图片" in dataset.protocol.templates
    (tmp_path / "two.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r'has 2 classes, but the column "label" of .* has 3'):
        read(HfDisk(root=str(saved), classes=str(tmp_path / "two.txt")))


def test_lists_of_classes_are_multi_label(tmp_path: Path, read: Read, drawn: list[Sample]) -> None:
    kind = datasets.ClassLabel(names=["cat", "dog", "cow"])
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Sequence(kind)})
    rows = {"image": [{"bytes": s.image, "path": None} for s in drawn[:2]], "label": [[2, 0], [1]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "m"))
    dataset = HfDisk(root=str(tmp_path / "m"))
    assert dataset.protocol.multi_label
    assert [s.metadata["class"] for s in read(dataset)] == [["cow", "cat"], ["dog"]]


def test_what_is_missing_is_one_sentence(saved: Path, tmp_path: Path, read: Read) -> None:
    with pytest.raises(UserError, match='has no split "dev"; it has: train, test'):
        read(HfDisk(root=str(saved), split="dev"))
    with pytest.raises(UserError, match='has no column "kind"; it has: image, label, caption, where'):
        read(HfDisk(root=str(saved), label="kind"))
    with pytest.raises(UserError, match=r"no saved dataset in .*: expected a folder that save_to_disk wrote"):
        read(HfDisk(root=str(tmp_path)))
    arrow = next((saved / "test").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:300])
    with pytest.raises(UserError, match=r"cannot be read .*save it again"):
        opened(str(saved))


def test_rows_without_a_picture_are_counted(tmp_path: Path, read: Read, drawn: list[Sample]) -> None:
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = {"image": [None, {"bytes": drawn[0].image, "path": None}], "text": ["a", "b"]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "h"))
    skip = Ledger()
    assert [s.text for s in read(HfDisk(root=str(tmp_path / "h")), skip=skip)] == ["b"]
    assert skip.by_reason() == {"missing picture": 1}
