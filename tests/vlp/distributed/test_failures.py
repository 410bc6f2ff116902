"""One rank that goes wrong ends all ranks within seconds, with that rank's reason."""

import os
import socket
import subprocess
import sys
import threading
import time

import failing_cases
import gloo_ranks
import pytest

from vlp.distributed.hub import Hub, parsed, send

SECONDS = 20  # from the failure to the last rank's end, on a machine that is busy with other tests


def endings(size, function, *arguments, folder):
    begun = time.monotonic()
    ended = gloo_ranks.finish(gloo_ranks.start(size, function, *arguments, folder=folder), timeout=90)
    assert all(e.code not in (None, 0) for e in ended), ended
    return ended, time.monotonic() - begun


@pytest.mark.parametrize("negatives", ["grid", "ring", "grouped:2"])
def test_a_ragged_batch_is_refused_on_every_rank(negatives, tmp_path):
    ended, _ = endings(4, failing_cases.wrong_batch, negatives, folder=tmp_path)
    for e in ended:
        assert "the ranks disagree on the pairs in the batch: 3 on rank 1; 4 on the other 3" in e.output


@pytest.mark.parametrize("negatives", ["grid", "ring"])
def test_an_error_on_one_rank_ends_all_with_its_reason(negatives, tmp_path):
    ended, seconds = endings(3, failing_cases.fails, "error", negatives, folder=tmp_path)
    assert "ValueError: the disk is full" in ended[1].output
    for e in (ended[0], ended[2]):
        assert "rank 1" in e.output
        assert "ValueError: the disk is full" in e.output
    assert seconds < SECONDS


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("how", ["kill", "hang"])
def test_a_killed_rank_ends_all_and_is_the_one_that_is_named(how, rank, tmp_path):
    ended, seconds = endings(3, failing_cases.fails, how, "grid", rank, folder=tmp_path)
    for e in (ended[0], ended[3 - rank]):
        assert f"ends because rank {rank} (" in e.output
        assert "ended without giving a reason" in e.output
    assert seconds < SECONDS


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_leaves_early_is_the_one_that_is_named(rank, tmp_path):
    ranks = gloo_ranks.start(3, failing_cases.fails, "exit", "grid", rank, folder=tmp_path)
    ended = gloo_ranks.finish(ranks, timeout=90)
    for e in (ended[1 - rank], ended[2]):
        assert e.code not in (None, 0)
        assert f"ends because rank {rank} (" in e.output
        assert "left the run before its end" in e.output


def test_strangers_at_the_port_change_nothing(tmp_path):
    """A port scan, a browser, noise, a wrong secret, a line without an end, and silence."""
    assert gloo_ranks.run(3, failing_cases.meets_strangers, folder=tmp_path) == [0, 1, 2]


def test_the_port_is_open_on_one_address_only(tmp_path):
    assert gloo_ranks.run(2, failing_cases.listens_where, folder=tmp_path) == ["127.0.0.1", "127.0.0.1"]


def test_the_death_of_rank_0_ends_all(tmp_path):
    ended, seconds = endings(3, failing_cases.first_rank_fails, folder=tmp_path)
    assert all("rank 0 ended without giving a reason" in e.output for e in ended[1:])
    assert seconds < SECONDS


def test_ranks_may_finish_at_their_own_pace(tmp_path):
    assert gloo_ranks.run(3, failing_cases.some_finish_first, folder=tmp_path) == [0, 1, 2]


def test_a_port_that_is_taken_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        seat = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        code = (
            "from vlp.config import run_main; from vlp.distributed.world import connect; run_main(lambda _: connect())"
        )
        command = [sys.executable, "-c", f"import sys; sys.argv = ['x']; {code}"]
        done = subprocess.run(
            command, env={**os.environ, **seat}, capture_output=True, text=True, timeout=60, check=False
        )
    assert f"error: port {port} of 127.0.0.1 is taken by another program" in done.stderr


def test_a_rank_that_comes_after_another_has_failed_hears_why() -> None:
    hub = Hub("127.0.0.1", "secret")
    threading.Thread(target=hub.serve, args=(2,), daemon=True).start()
    with socket.create_connection((hub.host, hub.port)) as first:
        send(first, {"secret": "secret", "rank": 1, "name": "rank 1"})
        send(first, {"failed": "UserError: no apple", "broken": False})
        time.sleep(0.5)  # the hub has read it and may not leave yet
        with socket.create_connection((hub.host, hub.port), timeout=30) as late:
            send(late, {"secret": "secret", "rank": 0, "name": "rank 0"})
            assert parsed(late.makefile("rb").readline()) == {"end": "rank 1 failed: UserError: no apple"}
