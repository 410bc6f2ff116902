"""Ranks that go wrong."""

import contextlib
import os
import signal
import socket
import sys
import time
from dataclasses import replace

import torch
from sharded_cases import cast, share, whole_batch

from vlp.distributed.sharded import sharded
from vlp.losses.infonce import InfoNCE


def wrong_batch(world, negatives):
    """Rank 1 brings one pair less; with a grid that is noticed before captions travel."""
    e = cast(share(whole_batch(4 * world.size, extras=False), world.rank, world.size), torch.float32)
    if world.rank == 1:
        e = replace(e, image=e.image[:-1], text=e.text[:-1], ids=None)
    objective = sharded(InfoNCE(), world, negatives)
    objective.send_ahead(e.text)
    objective(e)


def fails(world, how, negatives, rank=1):
    """`rank` fails at its third step; the others go on into a collective that it never joins."""
    objective = sharded(InfoNCE(), world, negatives)
    e = cast(share(whole_batch(4 * world.size, extras=False), world.rank, world.size), torch.float32)
    for step in range(1000):
        if world.rank == rank and step == 3:
            if how == "error":
                raise ValueError("the disk is full")
            if how == "exit":
                sys.exit(0)
            if how == "hang":
                time.sleep(1)
                os.kill(os.getpid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        objective(e)
        if how == "hang" and world.rank != rank and step == 3:
            time.sleep(100)  # in no collective at all


def first_rank_fails(world):
    """Rank 0, which keeps the lifelines, is killed."""
    if world.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(100)


def meets_strangers(world):
    """Whoever connects to the lifeline's port without the run's secret is ignored."""
    at = world.lifeline.line.getpeername()
    greetings = [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(range(256)) * 40 + b"\n",
        b'{"secret": "wrong", "rank": 1, "name": "rank 1"}\n{"failed": "no"}\n',
        b'{"failed": "no", "broken": false}\n',
        b"[1, 2]\n" + b"[" * 100_000,
        b"x" * 200_000,
        '{"secret": "\ud800", "rank": 0}\n'.encode("utf-8", "surrogatepass"),
    ]
    silent = [socket.create_connection(at) for _ in range(5)]
    for greeting in greetings * 3:
        with contextlib.suppress(OSError), socket.create_connection(at) as stranger:
            stranger.sendall(greeting)
    objective = sharded(InfoNCE(), world, "grid")
    e = cast(share(whole_batch(4 * world.size, extras=False), world.rank, world.size), torch.float32)
    for _ in range(5):
        objective(e)
        time.sleep(0.1)
    assert world.rank or world.lifeline.hub.is_alive()
    for line in silent:
        line.close()
    return world.rank


def listens_where(world):
    """The address of the port, on a single machine."""
    return world.lifeline.line.getpeername()[0]


def some_finish_first(world):
    """All is well; rank 0 is done long before the others."""
    time.sleep(0.5 * world.rank)
    return world.rank
