"""ARO: the box of Visual Genome is cut out, the false captions are those of the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.datasets.aro import Aro
from vlp.errors import UserError
from vlp.pictures import Limits, decode

Read = Callable[..., list[Sample]]
WriteTree = Callable[[Path, Any], Path]
WritePictures = Callable[[Path, list[str]], None]


def entry(name: str, left: int = 3) -> dict[str, Any]:
    return {
        "image_path": name,
        "bbox_x": left,
        "bbox_y": 5,
        "bbox_w": 20,
        "bbox_h": 10,
        "true_caption": "the cat is on the mat",
        "false_caption": "the mat is on the cat",
        "relation_name": "on",
    }


@pytest.mark.parametrize("part", ["vg_relation", "vg_attribution"])
def test_visual_genome(  # noqa: PLR0917
    part: Any, tmp_path: Path, write_tree: WriteTree, write_pictures: WritePictures, read: Read, drawn: list[Sample]
) -> None:
    file = f"visual_genome_{part.removeprefix('vg_')}.json"
    write_tree(tmp_path / file, [entry("a.jpg"), entry("b.jpg", left=0), entry("a.jpg")])
    write_pictures(tmp_path / "images", ["a.jpg", "b.jpg"])
    dataset = Aro(root=str(tmp_path), part=part, count=3)
    samples = read(dataset)
    for sample, source, left in zip(samples, (drawn[0], drawn[1], drawn[0]), (3, 0, 3), strict=True):
        whole = np.asarray(decode(source.image, Limits()))
        assert (np.asarray(decode(sample.image, Limits())) == whole[5:15, left : left + 20]).all()
    assert samples[0].captions == {"en": "the cat is on the mat"}
    assert samples[0].metadata == {"negatives": ["the mat is on the cat"], "category": "on"}
    assert dataset.protocol.expected == {"vg_relation": 23_937, "vg_attribution": 28_748}[part]


def test_word_order(tmp_path: Path, write_tree: WriteTree, write_pictures: WritePictures, read: Read) -> None:
    options = ["a cat on a mat", "a mat on a cat", "cat a on mat a"]
    write_tree(tmp_path / "coco_order.json", [{"image": "val2014/a.jpg", "caption_options": options}])
    write_pictures(tmp_path, ["val2014/a.jpg"])
    (sample,) = read(Aro(root=str(tmp_path), part="coco_order", count=1))
    assert (sample.text, sample.metadata["negatives"]) == (options[0], options[1:])
    write_tree(tmp_path / "coco_order.json", [{"image": "val2014/a.jpg", "caption_options": options[:1]}])
    with pytest.raises(UserError, match="an entry without false captions"):
        read(Aro(root=str(tmp_path), part="coco_order"))


def test_what_is_missing_or_broken_is_one_sentence(
    tmp_path: Path, write_tree: WriteTree, write_pictures: WritePictures, read: Read
) -> None:
    with pytest.raises(UserError, match=r"no ARO vg_relation in .*: expected visual_genome_relation.json; get it from"):
        read(Aro(root=str(tmp_path)))
    path = write_tree(tmp_path / "visual_genome_relation.json", [entry("a.jpg"), entry("b.jpg")])
    write_pictures(tmp_path / "images", ["a.jpg"])
    with pytest.raises(UserError, match=r"1 of 2 pictures that .* names are not there"):
        read(Aro(root=str(tmp_path)))
    path.write_text(path.read_text()[:-30])
    with pytest.raises(UserError, match="is not a file of ARO, or was cut off"):
        read(Aro(root=str(tmp_path)))
    write_tree(path, [{**entry("a.jpg"), "bbox_w": "wide"}])
    with pytest.raises(UserError, match='an entry without "bbox_w"'):
        read(Aro(root=str(tmp_path)))
