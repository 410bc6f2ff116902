"""Ranks that go wrong."""

import os
import signal
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


def fails(world, how, negatives):
    """Rank 1 fails at its third step; the others go on into a collective that it never joins."""
    objective = sharded(InfoNCE(), world, negatives)
    e = cast(share(whole_batch(4 * world.size, extras=False), world.rank, world.size), torch.float32)
    for step in range(1000):
        if world.rank == 1 and step == 3:
            if how == "error":
                raise ValueError("the disk is full")
            if how == "hang":
                time.sleep(1)
                os.kill(os.getpid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        objective(e)
        if how == "hang" and world.rank != 1 and step == 3:
            time.sleep(100)  # in no collective at all


def first_rank_fails(world):
    """Rank 0, which keeps the lifelines, is killed."""
    if world.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(100)


def some_finish_first(world):
    """All is well; rank 0 is done long before the others."""
    time.sleep(0.5 * world.rank)
    return world.rank
