"""Parts of a build, merged: every sample once, and what is missing or foreign is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.commands.build import main as build
from data_pipelines.commands.merge import main as merge
from data_pipelines.commands.verify import main as verify
from data_pipelines.shards import manifest
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from vlp.errors import UserError


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """23 pictures with captions, one of them broken, one without a caption."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(23):
        Image.new("RGB", (24, 16), (i * 10, 90, 200)).save(folder / f"p{i:02d}.png")
        if i != 5:
            (folder / f"p{i:02d}.txt").write_text(f"thing {i}")
    (folder / "p09.png").write_bytes(b"no picture")
    return folder


def build_part(pictures: Path, out: Path, part: str, *flags: str) -> None:
    build([str(pictures), str(out), "--part", part, "--shard-size", "4", *flags])


def test_merged_parts_hold_what_one_build_holds(pictures: Path, tmp_path: Path) -> None:
    build([str(pictures), str(tmp_path / "whole")])
    for part in ("3/3", "1/3", "2/3"):
        build_part(pictures, tmp_path / "parts", part)
    merge([str(tmp_path / "parts")])
    whole, merged = (ShardSet.open(str(tmp_path / name)) for name in ("whole", "parts"))
    captions = [sorted(sample.text for sample in read_samples(shards)) for shards in (whole, merged)]
    assert captions[0] == captions[1]
    counts = [manifest.read(tmp_path / name).counts for name in ("whole", "parts")]
    assert counts[0] == counts[1] != {}
    assert verify([str(tmp_path / "parts")]) == 0  # checksums, from the folder above the tars


def test_parts_that_are_missing_are_named(pictures: Path, tmp_path: Path) -> None:
    build_part(pictures, tmp_path / "parts", "2/3")
    with pytest.raises(UserError, match=r"2 of 3 parts of .* are not finished: --part 1/3, 3/3"):
        merge([str(tmp_path / "parts")])
    assert not (tmp_path / "parts" / "manifest.json").exists()
    build_part(pictures, tmp_path / "parts", "1/2")
    with pytest.raises(UserError, match="has parts of 2 and of 3"):
        merge([str(tmp_path / "parts")])
    with pytest.raises(UserError, match="has no parts"):
        merge([str(pictures)])


def test_parts_of_different_builds_are_not_merged(pictures: Path, tmp_path: Path) -> None:
    build_part(pictures, tmp_path / "parts", "1/2")
    build_part(pictures, tmp_path / "parts", "2/2", "--min-side", "8")
    with pytest.raises(UserError, match="was built from something else or with other filters"):
        merge([str(tmp_path / "parts")])


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "a/b"])
def test_what_names_no_part(pictures: Path, tmp_path: Path, part: str) -> None:
    with pytest.raises(UserError, match="should be i/n"):
        build_part(pictures, tmp_path / "parts", part)


def test_duplicates_are_not_looked_for_in_a_part(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="duplicates lie in others too"):
        build_part(pictures, tmp_path / "parts", "1/3", "--drop-duplicate-pictures")
