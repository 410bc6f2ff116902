"""A folder has one writer: the second is told who the first is, and a dead one holds nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from vlp.errors import UserError
from vlp.lock import LOCK, locked

FORK = multiprocessing.get_context("fork")


def _hold(folder: Path, pipe: Connection) -> None:
    with locked(folder):
        pipe.send(os.getpid())
        pipe.recv()


def holder(folder: Path) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    here, there = FORK.Pipe()
    process = FORK.Process(target=_hold, args=(folder, there))
    process.start()
    assert here.recv() == process.pid
    return process, here


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    process, pipe = holder(tmp_path / "run")
    with pytest.raises(UserError, match=rf"is being written by another program \(process {process.pid} on"):
        with locked(tmp_path / "run"):
            pass
    pipe.send("enough")
    process.join()
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).is_file()
    assert not (tmp_path / "run" / LOCK).exists()


def test_the_lock_of_a_killed_writer_is_taken_over(tmp_path: Path) -> None:
    process, _ = holder(tmp_path)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / LOCK).is_file()
    with locked(tmp_path):
        pass


def test_folders_do_not_share_a_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "a"), locked(tmp_path / "b"), locked(tmp_path / "a", ".part-3.lock"):
        pass


def test_a_lock_is_let_go_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), locked(tmp_path):
        raise ValueError("no")
    with locked(tmp_path):
        pass


def test_who_may_wait_comes_in_when_the_first_is_done(tmp_path: Path) -> None:
    process, pipe = holder(tmp_path)
    threading.Timer(0.3, pipe.send, ["enough"]).start()
    with locked(tmp_path, wait_s=20):
        process.join()
    other, _ = holder(tmp_path)
    with (
        pytest.raises(UserError, match="the index is being written"),
        locked(tmp_path, what=Path("the index"), wait_s=0.2),
    ):
        pass
    other.kill()
