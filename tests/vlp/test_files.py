"""Files are written whole: what a killed or failing writer leaves, what a full disk says."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from vlp.errors import UserError
from vlp.files import DiskFull, Partial, full_disk, write_whole


def test_text_bytes_and_writers_come_out_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "deep" / "a.txt", "grüße\n")
    write_whole(tmp_path / "deep" / "b.bin", b"\x00\xff")
    write_whole(tmp_path / "deep" / "c.txt", lambda path: path.write_text("c"), shared=True)
    assert (tmp_path / "deep" / "a.txt").read_text(encoding="utf-8") == "grüße\n"
    assert (tmp_path / "deep" / "b.bin").read_bytes() == b"\x00\xff"
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["a.txt", "b.bin", "c.txt"]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_whole(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _write_for_ever(path: Path) -> None:
    while True:
        for letter in "abc":
            write_whole(path, letter * 300_000)


def test_a_killed_writer_never_leaves_a_part_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    for delay in (0.02, 0.05, 0.11):
        process = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(path,))
        process.start()
        while not path.exists():
            time.sleep(0.005)
        time.sleep(delay)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        text = path.read_text()
        assert len(text) == 300_000
        assert len(set(text)) == 1


def fill(path: Path) -> None:
    path.write_bytes(b"begun")
    with Path("/dev/full").open("wb") as file:
        file.write(b"x" * 100_000)


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the disk is full .*x.npy could not be written; .*; free some space"):
        write_whole(tmp_path / "x.npy", fill)
    assert list(tmp_path.iterdir()) == []


def test_who_knows_most_of_what_is_left_has_the_word(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="three shards are kept"), full_disk(tmp_path, lambda: "three shards are kept"):
        write_whole(tmp_path / "x.npy", fill)


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), full_disk(tmp_path):
        raise PermissionError(13, "no")


def test_several_writers_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    assert Partial(tmp_path / "x", shared=True).temporary != Partial(tmp_path / "x").temporary
