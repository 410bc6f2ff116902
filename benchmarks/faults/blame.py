"""One rank of three is killed or fails at a random moment: the others end, and say which one it was."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults import runs

WAYS = ("killed", "raises", "leaves", "aborts", "is terminated")
RANKS, LONGEST_S = 3, 60.0
UNDER_TORCHRUN = 5  # one of so many is a training under torchrun, whose reports are looked at too


def attack(folder: Path, rng: random.Random, size: int) -> dict[str, tuple[int, str]]:
    """`size` worlds of three ranks."""
    wrong = 0
    for n in range(size):
        here = folder / str(n)
        here.mkdir()
        rank = rng.randrange(RANKS)
        if n % UNDER_TORCHRUN == 0:
            wrong += not training(here, rank, rng)
        else:
            wrong += not bare(here, rank, rng.choice(WAYS), rng.uniform(0, 1.5))
    return {"wrong": (wrong, f"worlds of three ranks, of {size}")}


def named(texts: list[str], rank: int) -> bool:
    """Whether every text names this rank as the cause, and no other."""
    causes = [{other for other in range(RANKS) if f"because rank {other} " in text} for text in texts]
    return all(cause == {rank} for cause in causes)


def bare(folder: Path, rank: int, way: str, after: float) -> bool:
    """Three processes that share their negatives step by step; whether the right rank was named in time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "vlp.distributed.sharded", "vlp.losses.infonce"])
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    fault = Fault(way, after)
    ranks = [
        context.Process(target=steps, args=(r, port, str(folder / f"{r}.log"), fault if r == rank else None))
        for r in range(RANKS)
    ]
    for process in ranks:
        process.start()
    until = time.monotonic() + LONGEST_S
    for process in ranks:
        process.join(max(0.1, until - time.monotonic()))
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    texts = [(folder / f"{r}.log").read_text() for r in range(RANKS) if r != rank]
    right = all(code not in (None, 0) for r, code in enumerate(codes) if r != rank) and named(texts, rank)
    if not right:
        print(f"rank {rank} {way}: exit codes {codes}", *(text[-1500:] for text in texts), sep="\n")
    return right


@dataclass(frozen=True)
class Fault:
    """What happens to one rank, and after how many seconds of its steps."""

    way: str
    after: float


def steps(rank: int, port: int, log: str, fault: Fault | None) -> None:
    """One rank: steps until its moment has come, or for ever."""
    import torch

    handle = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    torch.set_num_threads(1)
    seat = {"RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in seat.items()})
    from vlp.batch import Embeddings
    from vlp.distributed.sharded import sharded
    from vlp.distributed.world import connect
    from vlp.losses.infonce import InfoNCE

    with connect(timeout_s=120) as world:
        objective = sharded(InfoNCE(), world, "auto")
        unit = torch.nn.functional.normalize(torch.randn(8, 16), dim=1)
        embeddings = Embeddings(unit, unit.clone(), torch.tensor(10.0), torch.tensor(0.0))
        begun = time.monotonic()
        while True:
            if fault is not None and time.monotonic() - begun > fault.after:
                fail(fault.way)
            objective(embeddings)


def fail(way: str) -> Any:
    """What happens to the victim."""
    if way == "raises":
        raise ValueError("the disk is full")
    if way == "leaves":
        sys.exit(0)
    if way == "aborts":
        os.abort()
    os.kill(os.getpid(), signal.SIGKILL if way == "killed" else signal.SIGTERM)
    time.sleep(10)


def training(folder: Path, rank: int, rng: random.Random) -> bool:
    """A training under torchrun, one rank of which is killed; whether the run ends and names it."""
    run = runs.start(folder / "run", steps=100_000, ranks=RANKS, flags=("--training.batch", "63"))
    while run.poll() is None and not runs.rows(folder / "run"):
        time.sleep(0.1)
    time.sleep(rng.uniform(0, 2))
    for process in run.children():
        if process.environ().get("RANK") == str(rank):
            process.kill()
    try:
        output = run.communicate(timeout=LONGEST_S)[0]
    except Exception:
        runs.end(run)
        return False
    said = [line for line in output.splitlines() if "ends because rank" in line]
    right = bool(run.returncode) and bool(said) and named(said, rank)
    if not right:
        print(f"rank {rank} killed under torchrun: exit code {run.returncode}\n{output[-3000:]}")
    return right
