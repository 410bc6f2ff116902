"""Building shards: drops are counted and named, bytes depend on the samples alone, nothing is left half-written."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.commands.build import Shards, build, main
from data_pipelines.filters import Filters
from data_pipelines.sample import Sample
from data_pipelines.shards import manifest
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources import Source, Unusable
from data_pipelines.sources.folder import Folder
from data_pipelines.writing.resumable_folder import JOURNAL
from vlp.errors import UserError


def picture(colour: int, size: tuple[int, int] = (24, 16), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (colour % 256, 90, 200)).save(file, kind)
    return file.getvalue()


@dataclass(frozen=True)
class Given(Source):
    """Items that a test made; `breaks_after` of them the source fails."""

    given: tuple[Sample | Unusable, ...] = ()
    breaks_after: int = 1 << 30
    incidental = ("breaks_after",)

    def items(self, part: str) -> Iterator[Sample | Unusable]:
        for count, item in enumerate(self.given):
            if count == self.breaks_after:
                raise RuntimeError("the source broke")
            yield item


def samples(count: int) -> tuple[Sample, ...]:
    return tuple(Sample(f"s{i:03d}", picture(i), "png", {"en": f"thing {i}"}, {"n": i}) for i in range(count))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    (root / "deep er").mkdir(parents=True)
    for i, ending in enumerate(("jpg", "png", "webp", "gif")):
        path = root / "deep er" / f"p{i}.{ending}"
        Image.new("RGB", (20, 20), (i * 60, 1, 2)).save(path)
        path.with_suffix(".txt").write_text(f"square {i}\n")
    return root


def tar_bytes(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


def test_every_input_is_delivered_or_counted_and_named(folder: Path, tmp_path: Path) -> None:
    (folder / "silent.png").write_bytes(picture(1))
    (folder / "cut.jpg").write_bytes(picture(1, kind="JPEG")[:200])
    (folder / "cut.txt").write_text("cut short")
    (folder / "noise.png").write_bytes(b"no picture at all")
    (folder / "noise.txt").write_text("noise")
    (folder / "odd.png").write_bytes(picture(1))
    (folder / "odd.json").write_text("{")
    [done] = build(Folder(folder), tmp_path / "out", shards=Shards(shard_size=3))
    assert done.counts == {"missing caption": 1, "undecodable picture": 2, "unreadable file": 1}
    assert done.examples["missing caption"] == ["silent.png"]
    assert done.samples + sum(done.counts.values()) == 8
    read = list(read_samples(ShardSet.open(str(tmp_path / "out"))))
    assert sorted(s.captions["en"] for s in read) == [f"square {i}" for i in range(4)]
    assert {s.image_format for s in read} == {"jpg", "png", "webp"}  # the .gif is stored as .png
    assert len({s.key for s in read}) == 4


def test_same_samples_give_same_bytes_whatever_the_threads(tmp_path: Path) -> None:
    for name, threads in (("one", 1), ("two", 3)):
        build(Given(samples(25)), tmp_path / name, shards=Shards(shard_size=10, threads=threads, name="x"))
    assert tar_bytes(tmp_path / "one") == tar_bytes(tmp_path / "two")
    assert (tmp_path / "one/manifest.json").read_bytes() == (tmp_path / "two/manifest.json").read_bytes()


def test_an_interrupted_build_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    items = (*samples(12), Unusable("missing picture", "row 12"), *(replace(s, key=f"t{s.key}") for s in samples(12)))
    whole, cut = Given(items), Given(items, breaks_after=17)
    shards = Shards(shard_size=5, name="x", threads=1)
    build(whole, tmp_path / "whole", shards=shards)
    with pytest.raises(RuntimeError, match="broke"):
        build(cut, tmp_path / "cut", shards=shards)
    assert not (tmp_path / "cut/manifest.json").exists()
    assert not list((tmp_path / "cut").glob(".*")), "a half-written file is left"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("*.tar")}
    assert before
    build(whole, tmp_path / "cut", shards=shards)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "a finished shard was written again"
    assert tar_bytes(tmp_path / "cut") == tar_bytes(tmp_path / "whole")
    assert (tmp_path / "cut/manifest.json").read_bytes() == (tmp_path / "whole/manifest.json").read_bytes()
    assert not (tmp_path / "cut" / JOURNAL).exists()


def test_a_finished_folder_is_kept_and_another_recipe_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    [first] = build(Given(samples(3)), out)
    [again] = build(Given(samples(3)), out)
    assert again == first
    with pytest.raises(UserError, match="already holds other shards"):
        build(Given(samples(4)), out)


def test_a_key_twice_is_counted(tmp_path: Path) -> None:
    [done] = build(Given((*samples(3), *samples(2))), tmp_path / "out")
    assert done.samples == 3
    assert done.counts == {"duplicate key": 2}


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing was left .*caption too short: 2"):
        build(Given(samples(2)), tmp_path / "out", filters=Filters.of(min_chars=99))


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        (Filters.of(languages=("zh",)), "missing caption"),
        (Filters.of(min_chars=100), "caption too short"),
        (Filters.of(max_chars=3), "caption too long"),
        (Filters.of(min_side=17), "picture too small"),
        (Filters.of(max_aspect=1.4), "picture too long"),
        (Filters.of(most_pixels=100), "bomb-sized picture"),
    ],
)
def test_each_filter_has_its_reason(filters: Filters, reason: str) -> None:
    [sample] = samples(1)
    assert filters.apply(sample) == reason
    assert Filters().apply(sample) == sample


def test_shrink_scales_the_shorter_side_and_never_enlarges() -> None:
    [sample] = samples(1)
    small = Filters.of(shrink=8).apply(sample)
    assert isinstance(small, Sample)
    assert Image.open(io.BytesIO(small.image)).size == (12, 8)
    assert small.image_format == "webp"
    assert Filters.of(shrink=16).apply(sample) == sample


def test_full_disk_is_one_sentence_and_the_build_goes_on_later(tmp_path: Path) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", mount], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("a small disk cannot be mounted here; this needs root")
    given, shards = Given(samples(80)), Shards(shard_size=16, threads=1)
    try:
        with pytest.raises(
            UserError, match=r"the disk is full.*finished shards with .* are kept.*give the same command again"
        ):
            build(given, mount / "out", shards=shards)
        assert not (mount / "out/manifest.json").exists()
        assert not list((mount / "out").glob(".*"))
        kept = len(list((mount / "out").glob("*.tar")))
        assert 0 < kept < 5
        subprocess.run(["mount", "-o", "remount,size=2m", mount], check=True)
        [whole] = build(given, mount / "out", shards=shards)
        assert whole.samples == 80
    finally:
        subprocess.run(["umount", mount], check=False)


def test_the_command_guesses_folders_and_prints_what_was_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "silent.png").write_bytes(picture(1))
    assert main([str(folder), str(tmp_path / "out"), "--shard-size", "2"]) == 0
    told = capsys.readouterr().out
    assert "4 samples in 2 shards" in told
    assert "missing caption: 1 (silent.png)" in told
    recipe = json.loads((tmp_path / "out/manifest.json").read_text())["about"]["recipe"]
    assert recipe["source"]["name"] == "folder"
    assert recipe["shard_size"] == 2


def test_an_unknown_source_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no source is called "emojy"; did you mean "emoji"'):
        main(["emojy", str(tmp_path)])


def test_a_manifest_round_trips_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    [done] = build(Given(samples(3)), tmp_path / "out")
    assert manifest.read(tmp_path / "out") == done
    with pytest.raises(UserError, match=r"there is no manifest\.json"):
        manifest.read(tmp_path)
    (tmp_path / "out/manifest.json").write_text("{}")
    with pytest.raises(UserError, match="is not a shard manifest"):
        manifest.read(tmp_path / "out")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    manifest.write_whole(path, b"old")

    def fails(handle: int) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no"):
        manifest.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
