"""The smallest real run: two little towers with dropout and a batch norm, and a stream that can be resumed.

As a script it trains in FOLDER, for the tests that need processes of their own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from follows import Follows
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.batch import Batch, Embeddings
from vlp.distributed.world import World, connect
from vlp.losses.albef import ALBEF
from vlp.losses.infonce import InfoNCE
from vlp.losses.mochi import MoCHi
from vlp.losses.moco import MoCo
from vlp.teachers.momentum import Following
from vlp.training.guard import Guard
from vlp.training.trainer import Trainer, Training

LOSSES = {
    "moco": MoCo(queue=64),
    "mochi": MoCHi(queue=64, hardest=16, mixed=6, own_mixed=4),
    "albef": ALBEF(queue=64),
}


class Tiny(nn.Module):
    """A dual encoder of some thousand weights."""

    def __init__(self, *, dropout: float = 0.1, norm: bool = True, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        middle = nn.BatchNorm2d(8) if norm else nn.GroupNorm(2, 8)
        first = nn.Conv2d(3, 8, 3, 2, bias=not norm)
        self.image = nn.Sequential(first, middle, nn.GELU(), nn.Dropout(dropout), nn.Flatten())
        self.image_head = nn.Linear(8 * 9, 16)
        self.text = nn.Embedding(40, 16)
        self.text_head = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, 16))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.logit_bias = nn.Parameter(torch.tensor(0.0))

    def encode_image(self, image: Tensor) -> Tensor:
        return F.normalize(self.image_head(self.image(image.to(self.logit_scale.dtype) / 128 - 1)), dim=-1)

    def encode_text(self, text: Tensor) -> Tensor:
        return F.normalize(self.text_head(self.text(text).mean(-2)), dim=-1)

    def forward(
        self, image: Tensor | None, text: Tensor | None, send: Callable[[Tensor], None] | None = None
    ) -> Embeddings:
        texts = self.logit_scale.new_empty(0) if text is None else self.encode_text(text)
        if send is not None:
            send(texts)
        images = self.logit_scale.new_empty(0) if image is None else self.encode_image(image)
        return Embeddings(images, texts, self.logit_scale.exp(), self.logit_bias * 1.0)


def pairs(start: int, stop: int) -> Batch:
    """Pairs `start` to `stop` of an endless corpus; the text of each can be read off its picture."""
    rows = torch.arange(start, stop)
    text = torch.stack([rows % 37 + 1, rows * 7 % 37 + 1, rows * 3 % 5 + 1], 1)
    generator = torch.Generator().manual_seed(start)
    image = text.float().mul(6)[:, :, None, None] + torch.rand(len(rows), 3, 8, 8, generator=generator) * 20
    return Batch(image.to(torch.uint8), text, tuple(map(str, rows.tolist())), numbers=rows % 23)


class TinyStream:
    """Rank r of n has every n-th slice of the global batch."""

    def __init__(self, state: Any, *, batch: int, rank: int = 0, size: int = 1, pause: float = 0.0) -> None:
        self.step = 0 if state is None else int(state[0]["step"])
        self.batch, self.rank, self.size, self.pause = batch, rank, size, pause

    def __iter__(self) -> Iterator[Batch]:
        while True:
            time.sleep(self.pause)
            self.step += 1
            rows = self.batch // self.size
            yield pairs(self.step * self.batch, (self.step + 1) * self.batch)[self.rank * rows : (self.rank + 1) * rows]

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}


class Poisoned(TinyStream):
    """Some of its batches are NaN, on the last rank alone."""

    def __init__(self, state: Any, *, bad: range, **how: Any) -> None:
        super().__init__(state, **how)
        self.bad = bad

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            poison = float("nan") if self.step in self.bad and self.rank == self.size - 1 else 1.0
            yield replace(batch, image=batch.image.float() * poison)


def trainer(folder: Path, training: Training, world: World | None = None, pause: float = 0.0, **parts: Any) -> Trainer:
    """A run in `folder`, with what `parts` replace."""
    world = world or World.alone()
    parts = {"model": Tiny(), "loss": InfoNCE(), **parts}
    stream = {"batch": training.batch, "rank": world.rank, "size": world.size, "pause": pause}
    return Trainer(training, folder=folder, world=world, open_stream=lambda state: TinyStream(state, **stream), **parts)


def main(argv: list[str]) -> int:
    """Train in a process of its own, once for each --chunk, and keep the weights in FOLDER/CHUNK/final.pt."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--chunk", type=int, nargs="+", default=[0])
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--poison", type=int, nargs=2, help="first poisoned batch, and the first after")
    parser.add_argument("--plain", action="store_true", help="what ranks share exactly: no dropout, no norm of chunks")
    parser.add_argument("--teacher", type=float, help="decay of a momentum teacher")
    parser.add_argument("--loss", choices=LOSSES, help="of the teacher")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    training = Training(
        samples=options.steps * 16,
        batch=16,
        checkpoint_every=0.0,
        log_every=1,
        ema=0.9,
        tensorboard=False,
        precision=options.precision,
    )
    with connect() as world:
        for chunk in options.chunk:
            model = Tiny(dropout=0.0, norm=chunk == 0) if options.plain else Tiny()
            folder = options.folder / str(chunk)
            run = trainer(folder, replace(training, chunk=chunk), world, options.pause, model=model)
            if options.teacher is not None:
                loss = LOSSES[options.loss] if options.loss else Follows()
                run = replace(run, loss=loss, guide=Following(options.teacher))
            if options.poison:
                bad, place = range(*options.poison), {"rank": world.rank, "size": world.size}
                guard = Guard(patience=3, settle=5)
                run = replace(run, training=replace(run.training, guard=guard))
                run = replace(run, open_stream=lambda s, b=bad, p=place: Poisoned(s, batch=16, bad=b, **p))
            fitted = run.fit()
            if world.rank == 0:
                torch.save(fitted.model.state_dict(), folder / "final.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
