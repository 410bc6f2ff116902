"""Real gloo ranks for tests: a world of processes forked from one server that has torch loaded already."""

import multiprocessing
import os
import socket
import sys
import time
import traceback
from dataclasses import dataclass

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch", "torch.distributed", "vlp.distributed.sharded", "vlp.losses.infonce", "torch._dynamo"]
)


@dataclass
class Ending:
    """How one rank ended."""

    code: int | None
    output: str  # its stdout and stderr
    answer: object  # what its function gave back, None if it failed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_main(seat, function, arguments, pipe, log):
    rank, size, port, per_node = seat
    import torch

    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank % per_node), LOCAL_WORLD_SIZE=str(per_node),
        GROUP_RANK=str(rank // per_node), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    from vlp.distributed.world import connect

    try:
        with connect(timeout_s=120) as world:
            pipe.send(function(world, *arguments))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def start(size, function, *arguments, folder, per_node=None):
    """(processes, the ends of their pipes) of a world that runs function(world, *arguments) on every rank."""
    port = free_port()
    started = []
    for rank in range(size):
        here, there = CONTEXT.Pipe(duplex=False)
        log = str(folder / f"rank{rank}.log")
        process = CONTEXT.Process(
            target=rank_main, args=((rank, size, port, per_node or size), function, arguments, there, log), daemon=True
        )
        process.start()
        there.close()
        started.append((process, here, log))
    return started


def finish(started, *, timeout=240) -> list[Ending]:
    """How each rank ended; a rank that is still there after `timeout` seconds is killed and has the code None."""
    deadline = time.monotonic() + timeout
    endings = []
    for process, here, log in started:
        answer = None
        try:
            if here.poll(max(0.0, deadline - time.monotonic())):
                answer = here.recv()
        except EOFError:
            pass
        process.join(max(0.1, deadline - time.monotonic()))
        code = process.exitcode
        if code is None:
            process.kill()
        with open(log) as output:
            endings.append(Ending(code, output.read(), answer))
    return endings


def run(size, function, *arguments, folder, per_node=None, timeout=240):
    """What function(world, *arguments) gave back on each rank; fails with the ranks' own words."""
    endings = finish(start(size, function, *arguments, folder=folder, per_node=per_node), timeout=timeout)
    failed = [f"rank {rank} ended with {e.code}:\n{e.output}" for rank, e in enumerate(endings) if e.code != 0]
    assert not failed, "\n".join(failed)
    return [ending.answer for ending in endings]
