"""What checkpoints cost, and what kill -9 loses: python -m benchmarks.train_checkpoints --json OUT

checkpoint.stall    share of step time that a checkpoint in the background takes, one every 50 steps of the demo: what
                    10 steps take longer with one than without, in turn, as a share of the time of 50, pair by pair
checkpoint.waiting  share of step time for which the training itself stands still for it (copies, and the one before)
kills.*             20 kill -9 at random moments, many of them while a checkpoint is written (one after every step)
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import train
from benchmarks.faults import kills
from benchmarks.record import conditions, row, write
from vlp.batch import Batch
from vlp.config import build, read_preset
from vlp.distributed.world import World
from vlp.models.tokenizer import Tokenizer
from vlp.training.saving import Saving
from vlp.training.state import TrainState

STEPS = 50
"""between two checkpoints"""
BLOCK = 10
"""steps that are compared: more than a checkpoint takes, and few, since the machine's own pace moves in the meantime"""


def rows(*, pairs: int = 12, batch: int = 512, killed: int = 20, seed: int = 0) -> list[dict[str, Any]]:
    """Every figure of this file, in the form of benchmarks/record.py."""
    return [*stall(pairs=pairs, batch=batch), *killed_runs(killed, seed)]


def stall(*, pairs: int, batch: int) -> list[dict[str, Any]]:
    """`pairs` times two blocks of the demo's steps, one of them with a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        run = build(train.RunConfig, read_preset("demo"))
        settings = replace(run.training, batch=batch, samples=batch * 10**6, tensorboard=False, checkpoint_every=1e9)
        run = replace(run, out=Path(folder), training=settings)
        shares, waits = measured(run, pairs)
    unit = f"share of step time, one every {STEPS} steps of {batch} pairs"
    return [row("checkpoint.stall", unit, shares), row("checkpoint.waiting", unit, waits)]


def measured(run: train.RunConfig, pairs: int) -> tuple[list[float], list[float]]:
    """(what a checkpoint takes of a block's time, and for how much of it the training stood still), pair by pair."""
    torch.manual_seed(0)
    world, sources = World.alone(), run.data.sources()
    tokenizer: Tokenizer = run.model.tokenizer(train.captions(run.data, sources))
    encoder = run.model.build(tokenizer.vocab)
    run.model.start(encoder, scale=run.loss.start_scale, bias=run.loss.start_bias)
    state, watching, sinks, saving = train.trainer(run, world, encoder, tokenizer, sources).start()
    stream, batches = watching.stream, watching.batches
    shares, waits = [], []
    with sinks, saving.checkpoints:
        block(state, batches, stream, saving=None, sinks=sinks)  # the first steps are slower
        for n in range(pairs):
            seconds = {}
            stood = saving.checkpoints.writer.seconds
            for with_one in (False, True) if n % 2 else (True, False):
                chosen = saving if with_one else None
                seconds[with_one] = block(state, batches, stream, saving=chosen, sinks=sinks)
            steps = STEPS / BLOCK * seconds[False]
            shares.append((seconds[True] - seconds[False]) / steps)
            waits.append((saving.checkpoints.writer.seconds - stood) / steps)
    return shares, waits


def block(state: TrainState, batches: Iterator[Batch], stream: Any, *, saving: Saving | None, sinks: Any) -> float:
    """Seconds of some steps; with `saving` a checkpoint is begun at the first, and must be on disk after the last."""
    begun = time.perf_counter()
    for step in range(BLOCK):
        loss = state.gradient(next(batches))
        state.update(loss, state.clip())
        if saving is not None and step == 0:
            saving.write(stream.state_dict(), sinks, {})
    if saving is not None:
        saving.checkpoints.wait()
    return time.perf_counter() - begun


def killed_runs(size: int, seed: int) -> list[dict[str, Any]]:
    """What `size` kills at random moments lose: samples, and equality of the weights."""
    with tempfile.TemporaryDirectory() as folder:
        counts = kills.attack(Path(folder), random.Random(seed), size)
    return [row(f"kills.{name}", unit, [count]) for name, (count, unit) in counts.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pairs", type=int, default=12, help="pairs of blocks of steps")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    found = rows(pairs=options.pairs, batch=options.batch, killed=options.kills, seed=options.seed)
    write(options.json, conditions([], threads=torch.get_num_threads()), found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
