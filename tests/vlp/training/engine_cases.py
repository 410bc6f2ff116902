"""What the ranks of a test world train: one small run by every way of laying it out, for the curve of its loss."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_run import TinyStream

from vlp.distributed.sharded import sharded
from vlp.losses.infonce import InfoNCE
from vlp.models.image.resnet import ResNet
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.text.transformer import Transformer
from vlp.training.parallel import parallel
from vlp.training.settings import Training
from vlp.training.state import TrainState
from vlp.training.trainer import Trainer

STEPS, BATCH = 5, 16


def model(*, norm="layer", dropout=0.0, lock=False):
    """Two small towers with blocks, whose sizes four ranks cannot share evenly."""
    torch.manual_seed(0)
    image = ResNet(widths=(6, 10), depths=(1, 2), patch=2, norm=norm)
    text = Transformer(hidden=18, layers=2, heads=3, dropout=dropout)
    return TwoTowers(width=14, image_size=8, image=image, text=text, lock_image=lock).build(41)


def curve(world, folder, *, norm="layer", lock=False, steps=STEPS, stop=None, **changes):
    """The loss of each step of a run in `folder`, None where it was skipped; `stop`: of its first steps alone."""
    base = {"samples": steps * BATCH, "batch": BATCH, "log_every": 1, "tensorboard": False, "checkpoint_every": 1e9}
    training = Training(**{**base, "precision": "fp64", "loss_scale": 16.0, "ema": 0.9, "threads": 1, **changes})

    def stream(state):
        return Ending(state, batch=BATCH, rank=world.rank, size=world.size, stop=stop)

    run = Trainer(
        training, model(norm=norm, lock=lock), InfoNCE(), open_stream=stream, folder=Path(folder), world=world
    )
    if stop is not None:
        run = replace(run, training=replace(training, checkpoint_every=0.0))
    with contextlib.suppress(Stopped):
        run.fit()
    return [json.loads(line)["loss"] for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


class Stopped(Exception):
    pass


class Ending(TinyStream):
    """A stream that ends after `stop` batches of the run, on all ranks alike."""

    def __init__(self, state, *, stop, **kwargs):
        super().__init__(state, **kwargs)
        self.stop = stop

    def __iter__(self):
        for batch in super().__iter__():
            if self.stop is not None and self.step > self.stop:
                raise Stopped
            yield batch


def curves(world, folder, cases):
    """{name: curve} of the cases, each a dict of settings, one after the other in one world."""
    return {name: curve(world, Path(folder) / name, **changes) for name, changes in cases.items()}


def parts_of_five(world, folder, chain):
    """A run that is stopped after the last step of each part of `chain`, (last step, settings) each."""
    for last, changes in chain:
        curve(world, folder, stop=last, **changes)
        dist.barrier()  # the next part reads what rank 0 has written


def what_ranks_keep(world):
    """Shares of weights, optimizer and average here, whether scale and best model are whole: under FSDP2."""
    training = Training(samples=64, batch=16, ema=0.9, precision="fp32")
    whole = model()
    total = sum(p.numel() for p in whole.parameters())
    state = TrainState(
        training, whole, sharded(InfoNCE(), world), parallel("fsdp2", world, None, chunked=False), augment=None
    )
    state.gradient(next(iter(Ending(None, batch=BATCH, rank=world.rank, size=world.size, stop=None))))
    state.update(1.0, state.clip())
    kept = [entry["exp_avg"] for entry in state.optimizers[0].state.values()]
    shares = [
        sum(here(t) for t in tensors) / total for tensors in (whole.parameters(), kept, state.average.parameters())
    ]
    best = state.best()
    return [*shares, whole.logit_scale.shape == (), sum(p.numel() for p in best.parameters()) == total]


def here(tensor):
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).numel()


def everything(world, folder, cases, chain):
    """All of the above, in one world."""
    parts_of_five(world, folder / "parts", chain)
    return {"curves": curves(world, folder, cases), "kept": what_ranks_keep(world)}
