"""Class folders: whose names are taken, in which order; and folders and lists that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest

from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from eval.configuration import opened
from eval.datasets.image_folder import ImageFolder
from vlp.errors import UserError

Write = Callable[[Path, list[str]], None]
Read = Callable[..., list[Sample]]


def test_folders_are_classes(tmp_path: Path, write_pictures: Write, read: Read, drawn: list[Sample]) -> None:
    write_pictures(tmp_path, ["red_fox/b.png", "cat/deep/x.png", "red_fox/a.jpeg"])
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    dataset = opened(str(tmp_path))
    assert dataset == ImageFolder(root=str(tmp_path))
    assert (dataset.protocol.classes, dataset.protocol.label) == (("cat", "red fox"), "class")
    samples = read(dataset)
    assert [s.metadata["class"] for s in samples] == ["cat", "red fox", "red fox"]
    assert [s.image for s in samples] == [drawn[1].image, drawn[2].image, drawn[0].image]
    assert [s.image_format for s in samples] == [
        drawn[0].image_format
    ] * 3  # by what they are, not by how they are called
    assert all(s.captions == {} for s in samples)


def test_synsets_have_the_names_of_open_clip(tmp_path: Path, write_pictures: Write, read: Read) -> None:
    synsets = ["n04008634", "n01440764", "n03773504"]  # the first and the last are both called missile
    write_pictures(tmp_path, [f"{synset}/a.png" for synset in synsets])
    with pytest.raises(UserError, match=r"no folder for 997 of 1,000 classes, such as goldfish: .*subset = true"):
        read(ImageFolder(root=str(tmp_path)))
    dataset = ImageFolder(root=str(tmp_path), subset=True, templates="imagenet_80")
    numbers = [0, 657, 744]
    assert dataset.protocol.classes == tuple(open_clip.IMAGENET_CLASSNAMES[number] for number in numbers)
    assert dataset.protocol.labels == ("tench", "missile", "missile (2)")
    assert [s.metadata["class"] for s in read(dataset)] == ["tench", "missile", "missile (2)"]
    assert [s.metadata["folder"] for s in read(dataset)] == sorted(synsets)
    assert len(dataset.protocol.templates) == 80


def test_a_list_goes_by_name_by_number_or_by_order(tmp_path: Path, write_pictures: Write, read: Read) -> None:
    (tmp_path / "names.txt").write_text("zebra\nant\nred fox\n")
    for folders, classes in (
        (["red_fox", "zebra", "ant"], ["ant", "red fox", "zebra"]),  # by name
        (["0", "2", "1"], ["zebra", "ant", "red fox"]),
        (["c", "b", "a"], ["zebra", "ant", "red fox"]),
    ):
        root = tmp_path / folders[0]
        write_pictures(root, [f"{folder}/x.png" for folder in folders])
        dataset = ImageFolder(root=str(root), classes=str(tmp_path / "names.txt"))
        assert dataset.protocol.classes == ("zebra", "ant", "red fox")
        assert {s.metadata["folder"]: s.metadata["class"] for s in read(dataset)} == dict(
            zip(sorted(folders), classes, strict=True)
        )


def test_the_dataset_s_own_names_and_templates_win(tmp_path: Path, write_pictures: Write) -> None:
    write_pictures(tmp_path, ["a/x.png", "b/y.png"])
    (tmp_path / "classnames.txt").write_text("apple\nbanana\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a fruit, {c}.\n")
    protocol = ImageFolder(root=str(tmp_path), templates="imagenet_80").protocol
    assert (protocol.classes, protocol.templates) == (("apple", "banana"), ("a fruit, {}.",))


def test_what_does_not_fit_is_one_sentence(tmp_path: Path, write_pictures: Write, read: Read) -> None:
    write_pictures(tmp_path, ["a/x.png", "b/y.png"])
    (tmp_path / "three.txt").write_text("x\ny\nz\n")
    three = str(tmp_path / "three.txt")
    with pytest.raises(UserError, match=r"has 2 class folders not called by .* which has 3: give a list in the order"):
        read(ImageFolder(root=str(tmp_path), classes=three))
    write_pictures(tmp_path / "named", ["x/1.png", "z/1.png"])
    with pytest.raises(UserError, match="has no folder for 1 of 3 classes, such as y"):
        read(ImageFolder(root=str(tmp_path / "named"), classes=three))
    with pytest.raises(UserError, match=r'no class folders in ".*nothing": get them from the moon, and give --root'):
        read(ImageFolder(root=str(tmp_path / "nothing"), source="the moon"))
    with pytest.raises(UserError, match="has 4 samples, but 50,000 are expected"):
        read(ImageFolder(root=str(tmp_path), count=50_000))
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="is no shard set and no dataset that is known by its looks"):
        opened(str(tmp_path / "bare"))


def test_a_file_that_is_no_picture_is_counted(tmp_path: Path, write_pictures: Write, read: Read) -> None:
    write_pictures(tmp_path, ["a/x.png", "b/y.png"])
    (tmp_path / "b" / "z.png").write_bytes(b"<html>")
    skip = Ledger()
    assert len(read(ImageFolder(root=str(tmp_path)), skip=skip)) == 2
    assert skip.by_reason() == {"undecodable picture": 1}
    with pytest.raises(UserError, match=r"has 2 samples \(1 undecodable picture\), but 3 are expected"):
        read(ImageFolder(root=str(tmp_path), count=3))


def test_the_checksum_is_of_pictures_and_classes(tmp_path: Path, write_pictures: Write) -> None:
    write_pictures(tmp_path, ["a/x.png", "b/y.png"])
    (tmp_path / "names.txt").write_text("x\ny\n")

    def sums() -> tuple[str, str]:
        named = ImageFolder(root=str(tmp_path), classes=str(tmp_path / "names.txt"))
        return ImageFolder(root=str(tmp_path)).sha256(), named.sha256()

    first = sums()
    assert first[0] != first[1]
    assert sums() == first
    (tmp_path / "a" / "x.png").write_bytes((tmp_path / "b" / "y.png").read_bytes())
    assert sums()[0] != first[0]
