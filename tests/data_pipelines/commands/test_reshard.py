"""New tars of old samples: every file byte for byte, in the old order or an exact shuffle, nothing lost unseen."""

from __future__ import annotations

import doctest
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.commands import permutation as shuffled
from data_pipelines.commands.permutation import Shuffled
from data_pipelines.commands.reshard import AHEAD, Reshard, main, reshard
from data_pipelines.shards import manifest
from data_pipelines.shards.manifest import Manifest, ShardRecord
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.writing.resumable_folder import JOURNAL
from vlp.cli import run
from vlp.errors import UserError

Files = dict[str, dict[str, bytes]]  # key -> ending -> bytes


def files_of(folder: Path) -> list[tuple[str, bytes]]:
    """Every file of every tar, in order, as Python's own reader finds them."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                file = tar.extractfile(info)
                assert file is not None
                found.append((info.name, file.read()))
    return found


def keys_of(folder: Path) -> list[str]:
    return [sample.key for sample in read_samples(ShardSet.open(str(folder)))]


@given(st.integers(1, 300), st.integers(0, 2**63))
def test_a_shuffle_is_a_permutation(count: int, seed: int) -> None:
    order = Shuffled(count, seed)
    assert sorted(map(order.at, range(count))) == list(range(count))
    with pytest.raises(IndexError):
        order.at(count)


def test_every_place_of_a_shuffle_gets_everything_equally_often() -> None:
    assert doctest.testmod(shuffled).failed == 0
    held: Counter[tuple[int, int]] = Counter()
    for seed in range(4000):
        held.update(enumerate(map(Shuffled(7, seed).at, range(7))))
    expected = 4000 / 7
    chi = sum((held[place, thing] - expected) ** 2 / expected for place in range(7) for thing in range(7))
    assert chi < 80  # 36 degrees of freedom: exceeded once in 30,000 draws


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_every_file_arrives_byte_for_byte(
    tmp_path: Path, make_shards: Callable[..., Path], size: int, seed: int | None
) -> None:
    old = make_shards(tmp_path / "old", [7, 1, 12])
    done = reshard(Reshard(str(old), tmp_path / "new", shard_size=size, shuffle=seed))
    before, after = files_of(old), files_of(tmp_path / "new")
    assert Counter(before) == Counter(after)
    assert (before == after) == (seed is None)
    assert [shard.samples for shard in done.shards] == [min(size, 20 - n) for n in range(0, 20, size)]
    assert done.counts == {}
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [*(s.file for s in done.shards), "manifest.json"]
    assert run(["shards", "verify", str(tmp_path / "new")]) == 0


def test_files_that_training_does_not_read_come_along(tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    long = "folder of some depth/" * 6 + "name"
    files = [("a.JPG", b"1"), ("a.seg.npy", b"2"), ("b.txt", b"3"), ("a.txt", b"4"), ("b.png", b"5"), ("一.webp", b"6")]
    files += [
        ("一.cls", b"7"),
        (f"{long}.png", b"8"),
        (f"{long}.json", b"{}"),
        ("__skip__/x.png", b"9"),
        ("c.txt", b"10"),
    ]
    write_tar(tmp_path / "0.tar", files)
    done = reshard(Reshard(str(tmp_path / "0.tar"), tmp_path / "new"))
    kept = [f for f in files if not f[0].startswith(("__skip", "c"))]
    assert Counter(files_of(tmp_path / "new")) == Counter(kept)
    assert done.counts == {"missing picture": 1}
    assert keys_of(tmp_path / "new") == ["a", "b", "一", long]


def test_a_shuffle_is_that_of_its_seed_and_crosses_the_blocks_that_are_read(
    tmp_path: Path, make_shards: Callable[..., Path]
) -> None:
    old = make_shards(tmp_path / "old", [300, 300, 50])
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        reshard(Reshard(str(old), tmp_path / name, shard_size=400, shuffle=seed))
    a, b, c = (keys_of(tmp_path / name) for name in "abc")
    assert AHEAD < 650
    assert a == b != c
    assert sorted(a) == sorted(c) == keys_of(old)
    assert any(int(key) >= 600 for key in a[:100])


def test_what_cannot_be_read_is_counted_and_named(tmp_path: Path, make_shards: Callable[..., Path]) -> None:
    old = make_shards(tmp_path / "old", [5, 5, 5])
    (old / "00001.tar").write_bytes((old / "00001.tar").read_bytes()[:7000])
    (old / "00002.tar").write_bytes(b"\0" * 20480)
    done = reshard(Reshard(str(old), tmp_path / "new", shuffle=0))
    assert done.samples == len(keys_of(tmp_path / "new"))
    assert 5 < done.samples < 10
    assert done.counts["cut, unknown loss"] >= 1
    assert done.samples + sum(done.counts.values()) == 15
    assert "00001.tar" in done.examples["cut, unknown loss"][0]


@pytest.mark.parametrize("seed", [None, 0])
def test_a_shard_that_is_gone_costs_its_samples_as_its_manifest_counts_them(
    tmp_path: Path, make_shards: Callable[..., Path], seed: int | None
) -> None:
    old = make_shards(tmp_path / "old", [5, 3, 2])
    rows = tuple(ShardRecord(f"0000{n}.tar", count, 0, "") for n, count in enumerate((5, 3, 2)))
    Manifest("set", rows).write(old)
    (old / "00001.tar").unlink()
    done = reshard(Reshard(str(old), tmp_path / "new", shuffle=seed))
    assert (done.samples, done.counts) == (7, {"unreadable shard": 3})


def test_a_key_that_a_shard_has_already_gets_a_number(tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    for n in range(3):
        write_tar(tmp_path / f"{n}.tar", [("same.png", b"%d" % n), ("same.txt", b"t")])
    done = reshard(Reshard(str(tmp_path), tmp_path / "new", shard_size=2))
    assert keys_of(tmp_path / "new") == ["same", "same_2", "same"]
    assert [data for name, data in files_of(tmp_path / "new") if name.endswith("png")] == [b"0", b"1", b"2"]
    assert done.about["renamed_keys"] == 1


def test_the_old_manifest_is_kept(tmp_path: Path, make_shards: Callable[..., Path]) -> None:
    old = make_shards(tmp_path / "old", [4])
    facts = (old / "00000.tar").stat()
    about = {"license": "CC0", "recipe": {"source": {"name": "folder"}}}
    Manifest("drawings", (ShardRecord("00000.tar", 4, facts.st_size, ""),), {"caption too short": 2}, {}, about).write(
        old
    )
    reshard(Reshard(str(old), tmp_path / "new", shard_size=2))
    done = manifest.read(tmp_path / "new")
    assert (done.name, done.about["license"], done.counts) == ("drawings", "CC0", {})
    assert done.about["resharded"][0]["counts"] == {"caption too short": 2}
    assert done.about["resharded"][0]["about"] == about
    assert done.about["recipe"]["shard_size"] == 2


def test_folders_with_other_data_and_bad_numbers_are_refused(
    tmp_path: Path, make_shards: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = make_shards(tmp_path / "old", [4, 4]), tmp_path / "new"
    with pytest.raises(UserError, match=r"already holds \.tar files without a manifest"):
        reshard(Reshard(str(old), old))
    with pytest.raises(UserError, match='"shard_size" is 0, but it should be 1 or more'):
        reshard(Reshard(str(old), new, shard_size=0))
    assert main([str(old), str(new), "--shard-size", "3"]) == 0
    assert "8 samples in 3 shards" in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in new.iterdir()}
    assert main([str(old), str(new), "--shard-size", "3"]) == 0
    assert {path: path.stat().st_mtime_ns for path in new.iterdir()} == times, "a finished folder was written again"
    with pytest.raises(UserError, match="already holds other shards"):
        main([str(old), str(new), "--shard-size", "4"])


def test_old_shards_that_changed_meanwhile_are_noticed(tmp_path: Path, make_shards: Callable[..., Path]) -> None:
    old, new = make_shards(tmp_path / "old", [4, 4]), tmp_path / "new"
    reshard(Reshard(str(old), new, shard_size=3))
    (new / "manifest.json").unlink()
    tree = {"recipe": "{}", "taken": 3, "shards": [], "counts": {}, "examples": {}, "renamed": 0}
    (new / JOURNAL).write_text(json.dumps(tree))
    with pytest.raises(UserError, match="the beginning of another build"):
        reshard(Reshard(str(old), new, shard_size=3))


def test_tars_are_as_webdataset_reads_them(tmp_path: Path, make_shards: Callable[..., Path]) -> None:
    import webdataset

    old = make_shards(tmp_path / "old", [9])
    reshard(Reshard(str(old), tmp_path / "new", shard_size=9, shuffle=5))
    read = list(webdataset.WebDataset(str(tmp_path / "new/00000.tar"), shardshuffle=False))
    assert [one["__key__"] for one in read] == keys_of(tmp_path / "new")
    assert all(io.BytesIO(one["png"]).read(4) == b"\x89PNG" for one in read)
