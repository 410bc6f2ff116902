"""Flickr30K by Karpathy's JSON: splits, counts, and other languages in the same form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.sample import Sample
from eval.datasets.flickr30k import Flickr30k
from vlp.errors import UserError


def tree(words: str) -> dict[str, Any]:
    rows = [("test", "1.jpg"), ("train", "2.jpg"), ("test", "3.jpg"), ("val", "4.jpg")]
    return {
        "images": [
            {"filename": name, "split": split, "sentences": [{"raw": f"{words} {name} {i}"} for i in range(5)]}
            for split, name in rows
        ]
    }


def test_each_split_has_its_pictures_and_five_captions(
    tmp_path: Path,
    write_tree: Callable[[Path, Any], Path],
    write_pictures: Callable[[Path, list[str]], None],
    read: Callable[..., list[Sample]],
    drawn: list[Sample],
) -> None:
    write_tree(tmp_path / "dataset_flickr30k.json", tree("man"))
    write_tree(tmp_path / "flickr30k_cn.json", tree("人"))
    write_pictures(tmp_path / "flickr30k-images", ["1.jpg", "2.jpg", "3.jpg", "4.jpg"])
    root = str(tmp_path)
    samples = read(Flickr30k(root=root, count=2))
    assert [s.said("en") for s in samples] == [[f"man {k}.jpg {i}" for i in range(5)] for k in (1, 3)]
    assert [s.image for s in samples] == [drawn[0].image, drawn[2].image]
    zh = read(Flickr30k(root=root, split="val", count=1, annotations="flickr30k_cn.json", language="zh"))
    assert [s.captions for s in zh] == [{"zh": "人 4.jpg 0"}]
    assert [Flickr30k(split=split).protocol.expected for split in ("test", "val", "train")] == [1_000, 1_014, 29_000]
    assert Flickr30k(root=root).sha256() != Flickr30k(root=root, split="val").sha256()
    with pytest.raises(UserError, match=r"\(test\) has 2 samples, but 1,000 are expected"):
        read(Flickr30k(root=root))
    (tmp_path / "flickr30k-images" / "3.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 2 pictures that .* names are not there"):
        read(Flickr30k(root=root))
    with pytest.raises(UserError, match=r"no Flickr30K in .*: expected x.json; get it from https:"):
        read(Flickr30k(root=root, annotations="x.json"))
