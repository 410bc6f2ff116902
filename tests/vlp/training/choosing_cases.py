"""Tiny runs that choose their pairs, in this process and in those of ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_run import Tiny, TinyStream, trainer
from torch import Tensor, nn

from vlp.batch import Batch, Embeddings
from vlp.choosers.jest import Jest
from vlp.distributed.world import World
from vlp.training.teaching import Guide, Setting, encoded
from vlp.training.trainer import Trainer, Training

STEPS = 4
HOW = Jest(discard=0.75, rounds=3, blocks=4)
BASE = Training(
    samples=STEPS * 16, batch=16, log_every=1, tensorboard=False, checkpoint_every=1e9, precision="fp64", threads=1
)


class Known(Guide):
    """Another little model as the teacher."""

    id = "known"

    def begin(self, model: nn.Module, setting: Setting) -> None:
        self.setting, self.width = setting, 16
        self.model = Tiny(dropout=0.0, norm=False, seed=9).to(setting.dtype).eval()

    def __call__(self, batch: Batch, e: Embeddings) -> tuple[Tensor, Tensor]:
        return encoded(self.model, batch.image, batch.text, self.setting)


def run(folder: Path, world: World | None = None, **parts: Any) -> Trainer:
    world = world or World.alone()
    given: dict[str, Any] = {
        "training": BASE,
        "model": Tiny(dropout=0.0, norm=False),
        "choose": HOW,
        "guide": Known(),
        **parts,
    }
    training = given.pop("training")
    stream = {"batch": given["choose"].candidates(training.batch), "rank": world.rank, "size": world.size}
    made = trainer(folder, training, world, **given)
    return replace(made, open_stream=lambda state: TinyStream(state, **stream))


def train(world: World, chunk: int, folder: str) -> list[float]:
    """The weights after a run, as numbers."""
    fitted = run(Path(folder) / "run", world, training=replace(BASE, chunk=chunk)).fit()
    return torch.cat([p.detach().flatten().double() for p in fitted.model.parameters()]).tolist()
