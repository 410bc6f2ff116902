"""CLIP_benchmark's layout: the three kinds, its text files, and tars that are missing, cut or of another kind."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.configuration import opened
from eval.datasets.wds import Wds
from vlp.errors import UserError

Read = Callable[..., list[Sample]]
WriteWds = Callable[..., Path]
NAMES = ["cat", "dog", "cow"]


def npy(values: list[int]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(values))
    return file.getvalue()


def test_classification(write_wds: WriteWds, tmp_path: Path, read: Read, drawn: list[Sample]) -> None:
    labels = [0, 2, 1, 1, 0]
    rows = [{"png": s.image, "cls": str(n).encode()} for s, n in zip(drawn, labels, strict=False)]
    root = write_wds(tmp_path / "w", rows)
    dataset = opened(str(root))
    assert dataset == Wds(root=str(root))
    assert dataset.protocol.classes == tuple(NAMES)
    assert dataset.protocol.templates == ("a photo of a {}.", "a {}")
    samples = read(dataset)
    assert [s.metadata["class"] for s in samples] == [NAMES[n] for n in labels]
    assert [s.image for s in samples] == [s.image for s in drawn[:5]]
    with pytest.raises(UserError, match="has 5 samples, but 6 are expected"):
        read(Wds(root=str(root), count=6))


def test_several_classes(write_wds: WriteWds, tmp_path: Path, read: Read, drawn: list[Sample]) -> None:
    rows = [{"jpg": drawn[0].image, "npy": npy([1, 0, 1])}, {"jpg": drawn[1].image, "npy": npy([0, 0, 0])}]
    dataset = Wds(root=str(write_wds(tmp_path / "w", rows, kind="multilabel")))
    assert dataset.protocol.multi_label
    assert [s.metadata["class"] for s in read(dataset)] == [["cat", "cow"], []]
    short = [{"jpg": drawn[0].image, "npy": npy([1, 0])}]
    with pytest.raises(UserError, match="has 2 flags for s0000000, but there are 3 classes"):
        read(Wds(root=str(write_wds(tmp_path / "short", short, kind="multilabel"))))


def test_retrieval(write_wds: WriteWds, tmp_path: Path, read: Read, drawn: list[Sample]) -> None:
    rows = [{"webp": drawn[0].image, "txt": b"a cat\n\n the cat \n"}, {"png": drawn[1].image, "txt": b"dog"}]
    dataset = Wds(root=str(write_wds(tmp_path / "w", rows, kind="retrieval")))
    samples = read(dataset)
    assert [s.said("en") for s in samples] == [["a cat", "the cat"], ["dog"]]
    assert dataset.protocol.classes == ()
    silent = [{"png": drawn[0].image, "txt": b" \n"}]
    with pytest.raises(UserError, match="has no caption for s0000000"):
        read(Wds(root=str(write_wds(tmp_path / "silent", silent, kind="retrieval"))))


def test_numbers_beside_the_class_go_into_the_metadata(
    write_wds: WriteWds, tmp_path: Path, read: Read, drawn: list[Sample]
) -> None:
    rows = [{"png": drawn[0].image, "cls": b"1", "npy": npy([3, 2016, 1])}]
    (sample,) = read(Wds(root=str(write_wds(tmp_path / "w", rows)), columns=("region", "year", "y")))
    assert sample.metadata == {"region": 3, "year": 2016, "y": 1, "class": "dog"}


def test_missing_and_cut_tars_are_refused_unless_asked_for(
    write_wds: WriteWds, tmp_path: Path, read: Read, drawn: list[Sample]
) -> None:
    rows = [{"png": s.image, "cls": b"0"} for s in drawn[:6]]
    dataset = Wds(root=str(write_wds(tmp_path / "w", rows)))
    second = tmp_path / "w" / "test" / "1.tar"
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"1.tar cannot be read to its end .*: get it again, .*--skip-damaged"):
        read(dataset)
    assert 3 <= len(read(dataset, skip_damaged=True)) < 6
    second.unlink()
    with pytest.raises(UserError, match=r"1.tar is missing, of the 2 that nshards.txt counts"):
        read(dataset)
    assert len(read(dataset, skip_damaged=True)) == 3


@pytest.mark.parametrize(
    "row, sentence",
    [
        ({"cls": b"3"}, 'has the class "3" for s0000000, of 3 classes'),
        ({"cls": b"cat"}, 'has the class "cat"'),
        ({"txt": b"a cat"}, "has no .cls for s0000000"),
    ],
)
def test_labels_that_are_none_are_refused(
    write_wds: WriteWds, row: dict[str, bytes], sentence: str, *, tmp_path: Path, read: Read, drawn: list[Sample]
) -> None:
    root = write_wds(tmp_path / "w", [{"png": drawn[0].image, **row}])
    with pytest.raises(UserError, match=sentence):
        read(Wds(root=str(root)))


def test_text_files_that_are_missing_or_wrong_are_one_sentence(
    write_wds: WriteWds, tmp_path: Path, read: Read, drawn: list[Sample]
) -> None:
    root = write_wds(tmp_path / "w", [{"png": drawn[0].image, "cls": b"0"}])
    with pytest.raises(UserError, match=r"there is no .*/val/nshards.txt: get the dataset from https:"):
        read(Wds(root=str(root), split="val"))
    (root / "dataset_type.txt").write_text("video")
    with pytest.raises(UserError, match='says "video"; expected one of: classification, multilabel, retrieval'):
        read(Wds(root=str(root)))
    (root / "dataset_type.txt").unlink()
    (root / "classnames.txt").write_text("cat\n\ncow\n")
    with pytest.raises(UserError, match="has no name in line 2"):
        read(Wds(root=str(root)))
    (root / "classnames.txt").unlink()
    with pytest.raises(UserError, match=r"has no classnames.txt, and its classes are numbers"):
        read(Wds(root=str(root)))
    (root / "test" / "nshards.txt").write_text("many")
    with pytest.raises(UserError, match='says "many"; expected the number of tars'):
        Wds(root=str(root)).sha256()
