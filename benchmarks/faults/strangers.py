"""Port scans, browsers and noise at every port that a run opens: it ends as if nobody had come."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from pathlib import Path

import psutil

from benchmarks.faults import runs

STEPS = 60
GREETINGS = (
    b"",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),  # the beginning of TLS
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b'{"failed": "no", "broken": false}\n',
    b"[" * 100_000,
    b"x" * 200_000,
)


def attack(folder: Path, rng: random.Random, size: int) -> dict[str, tuple[int, str]]:
    """`size` runs of three ranks, each with strangers at all its ports from its start to its end."""
    ended = visits = 0
    for n in range(size):
        out = folder / str(n)
        run = runs.start(out, steps=STEPS, ranks=3, flags=("--training.batch", "63"))
        visits += visit(run, rng)
        output = run.communicate()[0]
        if run.returncode or not runs.weights(out):
            ended += 1
            print(f"a run that strangers visited ended with {run.returncode}:\n{output[-3000:]}")
    return {"runs_ended": (ended, f"runs, of {size} with {visits:,} visits")}


def visit(run: psutil.Popen, rng: random.Random) -> int:
    """Visit every port of a run and of all its processes until it ends; how often."""
    visits, silent, until = 0, [], time.monotonic() + 300
    while run.poll() is None and time.monotonic() < until:
        for address, port in ports(run):
            greeting = rng.choice([*GREETINGS, rng.randbytes(rng.randint(1, 5000))])
            with contextlib.suppress(OSError):
                line = socket.create_connection((address, port), timeout=1)
                line.settimeout(1)
                visits += 1
                if len(silent) < 20 and rng.random() < 0.1:  # one that never speaks and never leaves
                    silent.append(line)
                    continue
                with line:
                    line.sendall(greeting)
        time.sleep(rng.uniform(0, 0.1))
    for line in silent:
        line.close()
    if run.poll() is None:
        runs.end(run)
    return visits


def ports(run: psutil.Popen) -> set[tuple[str, int]]:
    """(address, port) of everything that the run's processes listen at."""
    found: set[tuple[str, int]] = set()
    with contextlib.suppress(psutil.Error):
        for process in [run, *run.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                for c in process.net_connections(kind="inet"):
                    if c.status == psutil.CONN_LISTEN:
                        address = c.laddr.ip
                        found.add(({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address), c.laddr.port))
    return found
