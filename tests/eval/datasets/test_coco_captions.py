"""COCO captions: COCO's own file, Karpathy's; captions without pictures and the other way round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from eval.datasets.coco_captions import CocoCaptions
from vlp.errors import UserError

Read = Callable[..., list[Sample]]
WriteTree = Callable[[Path, Any], Path]
WritePictures = Callable[[Path, list[str]], None]
NAMES = ["000000000009.jpg", "000000000025.jpg", "000000000030.jpg"]
OWN = {
    "images": [{"id": 30, "file_name": NAMES[2]}, {"id": 9, "file_name": NAMES[0]}, {"id": 25, "file_name": NAMES[1]}],
    "annotations": [
        {"id": 7, "image_id": 9, "caption": " A plate. "},
        {"id": 3, "image_id": 25, "caption": "A giraffe."},
        {"id": 5, "image_id": 9, "caption": "Food on a plate."},
        {"id": 9, "image_id": 30, "caption": "A vase."},
    ],
}


def karpathy(split: str = "test") -> dict[str, Any]:
    return {
        "images": [
            {
                "filepath": "val2014",
                "filename": name,
                "split": split if number < 2 else "train",
                "sentences": [{"raw": f"caption {i} of {number}"} for i in range(5 + number)],
            }
            for number, name in enumerate(NAMES)
        ]
    }


@pytest.fixture
def own(tmp_path: Path, write_tree: WriteTree, write_pictures: WritePictures) -> Path:
    write_tree(tmp_path / "annotations" / "captions_val2017.json", OWN)
    write_pictures(tmp_path / "val2017", NAMES)
    return tmp_path


def test_a_file_of_coco_s_own(own: Path, read: Read, drawn: list[Sample]) -> None:
    samples = read(CocoCaptions(root=str(own), count=3))
    assert [s.said("en") for s in samples] == [["Food on a plate.", "A plate."], ["A giraffe."], ["A vase."]]
    assert [s.image for s in samples] == [s.image for s in drawn[:3]]
    assert [len(s.said("en")) for s in read(CocoCaptions(root=str(own), count=3, most_captions=1))] == [1, 1, 1]
    assert CocoCaptions(root=str(own)).protocol.expected == 5_000
    with pytest.raises(UserError, match="has 3 samples, but 5,000 are expected"):
        read(CocoCaptions(root=str(own)))


def test_karpathy_s_file_goes_first(own: Path, write_tree: WriteTree, read: Read) -> None:
    write_tree(own / "dataset_coco.json", karpathy())
    (own / "val2017").rename(own / "val2014")
    samples = read(CocoCaptions(root=str(own), count=2))
    assert [len(s.said("en")) for s in samples] == [5, 6]
    assert samples[1].said("en")[0] == "caption 0 of 1"
    with pytest.raises(UserError, match='has no split "val"; it has: test, train'):
        read(CocoCaptions(root=str(own), split="val"))


def test_captions_without_pictures_are_refused(own: Path, read: Read) -> None:
    (own / "val2017" / NAMES[1]).unlink()
    with pytest.raises(UserError, match=rf"1 of 3 pictures that .*json names are not there, such as .*{NAMES[1]}: "):
        read(CocoCaptions(root=str(own), count=3))
    skip = Ledger()
    assert len(read(CocoCaptions(root=str(own), count=3), skip=skip, skip_damaged=True)) == 2
    assert skip.by_reason() == {"missing picture": 1}


def test_pictures_without_captions_are_refused(own: Path, write_tree: WriteTree, read: Read) -> None:
    write_tree(own / "annotations" / "captions_val2017.json", {**OWN, "annotations": OWN["annotations"][:2]})
    with pytest.raises(UserError, match=f"has no caption for 1 of its pictures, such as {NAMES[2]}"):
        read(CocoCaptions(root=str(own)))


@pytest.mark.parametrize(
    "text, sentence",
    [
        ('{"images": [{"id": 1', "is not a COCO captions file, or was cut off"),
        ('{"images": []}', 'has an entry without "annotations"'),
        ('{"images": [{"id": 1}], "annotations": []}', 'has an entry without "file_name"'),
        ('{"images": [], "annotations": [{"id": 1, "image_id": 2, "caption": " "}]}', "an entry without a caption"),
    ],
)
def test_broken_files_are_one_sentence(text: str, sentence: str, tmp_path: Path, read: Read) -> None:
    (tmp_path / "captions_val2017.json").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read(CocoCaptions(root=str(tmp_path)))
    with pytest.raises(UserError, match=r"no COCO captions in .*: expected a.json; get it from https:"):
        read(CocoCaptions(root=str(tmp_path), annotations="a.json"))
