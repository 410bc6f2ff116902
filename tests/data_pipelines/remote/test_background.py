from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time

import pytest

from data_pipelines.remote.background import Background


def test_calls_run_at_the_same_time_in_a_bounded_number_of_threads() -> None:
    background, meet = Background(3, "meet"), threading.Barrier(3, timeout=30)
    held = [background.submit(meet.wait) for _ in range(9)]
    assert sorted(h.result(30) for h in held) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert sum(t.name.startswith("meet-") for t in threading.enumerate()) == 3


def test_an_error_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        Background(1, "error").submit(lambda: 1 // 0).result(30)


def test_its_threads_end_with_it() -> None:
    background = Background(2, "ending")
    assert background.submit(int).result(30) == 0
    del background
    gc.collect()
    deadline = time.monotonic() + 30
    while any(t.name.startswith("ending-") for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_forked_child_has_threads_of_its_own() -> None:
    background = Background(1, "fork")
    assert background.submit(os.getpid).result(30) == os.getpid()
    child = os.fork()
    if child == 0:
        os._exit(background.submit(os.getpid).result(30) != os.getpid())
    assert os.waitpid(child, 0)[1] == 0


def test_a_process_ends_while_a_call_is_under_way() -> None:
    program = """
import time
from data_pipelines.remote.background import Background
background = Background(2, "stuck")
background.submit(time.sleep, 600)
print("done")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")
