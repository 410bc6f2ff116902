"""The loop."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vlp.augment import Draws
from vlp.batch import Batch
from vlp.config import to_tree
from vlp.distributed.schedules import sharded
from vlp.distributed.world import World
from vlp.errors import UserError
from vlp.losses import Loss
from vlp.training import memory
from vlp.training.checkpoint import Checkpoints, flat
from vlp.training.interruption import Interrupted, Interruption
from vlp.training.parallel import Parallel, resolve
from vlp.training.progress import Bar, JsonLines, Lines, Progress, Sink, Tensorboard, Wandb
from vlp.training.run import Run
from vlp.training.settings import FREE, Training

Augment = Callable[[Tensor, Draws], Tensor]  # [B, 3, H, W] pictures on the device -> the same, changed
Evaluation = Callable[[nn.Module], Mapping[str, float]]
Positions = Sequence[Any]  # what `Stream.state_dict` of every rank gave


class Stream(Protocol):
    """Batches of this rank, for ever, from a position that can be saved."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was handed over."""


@dataclass(frozen=True)
class Fitted:
    """A trained model, and what it took."""

    model: nn.Module
    """the averaged weights if there is an average, in evaluation mode"""
    steps: int
    samples: int
    seconds: float
    """time in the loop, evaluations and checkpoints included, over all parts of the run"""
    refused: int
    """steps that the guard refused"""
    metrics: Mapping[str, float]
    """numbers of the last evaluation"""

    @property
    def samples_per_second(self) -> float:
        """Pairs per second of all ranks together."""
        return self.samples / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Trainer:
    """Everything that one training run is made of; `fit` runs it, or goes on with it."""

    training: Training
    model: nn.Module
    """image [B, 3, H, W], text [B, L] -> Embeddings; it is trained in place"""
    loss: Loss
    open_stream: Callable[[Any], Stream]
    """the data from the saved positions of all ranks, on any number of ranks; from the beginning if that is None"""
    folder: Path
    """where metrics.jsonl, events and checkpoints go"""
    world: World = field(default_factory=World.alone)
    evals: Mapping[str, Evaluation] = field(default_factory=dict)
    """by name; every rank calls each of them with the same weights, and rank 0's numbers are kept"""
    augment: Augment | None = None
    """changes a batch of pictures on the device; its draws are the only source of chance"""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """settings outside of `training` that a resumed run must share: the model's, the data's"""
    saving: Callable[[Positions], None] | None = None
    """is told the positions of all ranks in the data, on rank 0, before each checkpoint"""
    example: Batch | None = None
    """a few pairs as the stream would give them; with it, memory is estimated before anything starts"""

    def fit(self) -> Fitted:
        """The trained model. All ranks participate; a checkpoint in the folder is continued, to the same result.

        Raises UserError if a checkpoint belongs to another run, if memory will not do, if the disk is full, or if the
        guard gives up; Interrupted, with a checkpoint written, if a signal asked to stop.
        """
        run, stream, progress, checkpoints = self.start()
        training, batches, clock = self.training, iter(stream), Clock(run)
        metrics: dict[str, float] = {}
        with progress, Interruption() as interruption:
            while run.step < training.steps:
                batch = next(batches).to(self.world.device)
                loss = run.gradient(batch)  # encode, sharded objective, gradients at the embeddings, replay; one sync
                norm = run.clip()
                run.update(loss, norm)  # guard, step, clamp the scale, average
                progress.moved(run.samples, clock.tick(loss))
                done = run.step == training.steps
                if done or run.step % training.log_every == 0:
                    progress.record(run.row())
                if training.eval_every and (done or run.step % training.eval_every == 0):
                    metrics = self.evaluate(run)
                    progress.record({"step": run.step, "samples": run.samples, **metrics})
                save, stop = run.parallel.any_rank(self.world.rank == 0 and clock.due, interruption.asked)
                if done or save or stop:
                    clock.tick(loss)
                    self.save(run, stream, progress, checkpoints)
                    clock.saved()
                if stop and not done:
                    raise self.interrupted(run, interruption.signum)
        run.parallel.release(run.module)
        return self.fitted(run, metrics)

    def start(self) -> tuple[Run, Stream, Progress, Checkpoints]:
        """Everything built, and where a checkpoint left it. All ranks participate."""
        training, world = self.training, self.world
        if training.batch % world.size:
            raise UserError(
                f"training.batch is {training.batch}, which {world.size} processes cannot share evenly; "
                f"make it {training.batch // world.size * world.size or world.size} or another multiple of {world.size}"
            )
        if training.threads:
            torch.set_num_threads(training.threads)
        parallel = Parallel(world, training.precision, chunked=0 < training.chunk < training.batch // world.size)
        self.model.to(world.device)
        self.refuse_too_much()
        checkpoints = Checkpoints(self.folder / "checkpoints", training.keep)
        if not training.resume:
            if world.rank == 0:
                checkpoints.clear()
                shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
            parallel.everyones(None)  # nobody looks for a checkpoint before rank 0 has removed them
        state = checkpoints.read(self.signature())
        run = Run(training, self.model, sharded(self.loss, world, training.negatives), parallel, self.augment)
        position = run.load_state_dict(state) if state else None
        stream = self.open_stream(position)
        return run, stream, self.progress(run, state["metrics"] if state else 0), checkpoints

    def signature(self) -> dict[str, Any]:
        """What two parts of one run must share: settings, loss, data, names and shapes of the weights."""
        settings = {k: v for k, v in to_tree(self.training).items() if k not in FREE}
        loss = {"kind": type(self.loss).__module__, **to_tree(self.loss)}
        weights = {k: str(tuple(v.shape)) for k, v in self.model.state_dict().items()}
        return flat({**self.identity, "training": settings, "loss": loss, "weight": weights})

    def refuse_too_much(self) -> None:
        """Raise UserError if the run would not fit into memory, as far as `example` can tell."""
        if self.example is None:
            return
        training, world = self.training, self.world
        rows = training.batch // world.size
        chunk = min(training.chunk or rows, rows)
        need = memory.estimate(
            self.model,
            self.example.to(world.device),
            rows=rows,
            chunk=chunk,
            copies=1 + training.optimizer.state_per_weight + bool(training.ema),
            autocast=torch.bfloat16 if resolve(training.precision, world.device) == "bf16" else None,
        )
        memory.refuse_too_much(need, memory.available(world.device, world.local_size), rows=rows, chunk=chunk)

    def progress(self, run: Run, position: int) -> Progress:
        """Where rank 0's numbers go; elsewhere nowhere. `position` is where a checkpoint left metrics.jsonl."""
        if self.world.rank:
            return Progress([])
        training, total = self.training, self.training.steps * self.training.batch
        sinks: list[Sink] = [JsonLines(self.folder / "metrics.jsonl", position)]
        if training.tensorboard:
            sinks.append(Tensorboard(self.folder / "tensorboard", run.step))
        if training.wandb:
            sinks.append(Wandb(training.wandb, self.folder))
        sinks.append(Bar(total, run.samples) if sys.stdout.isatty() else Lines(total))
        return Progress(sinks)

    @torch.no_grad()
    def evaluate(self, run: Run) -> dict[str, float]:
        """The numbers of all evaluations, as name/number. All ranks participate."""
        training = run.best.training
        run.best.eval()
        numbers = {f"{name}/{k}": float(v) for name, call in self.evals.items() for k, v in call(run.best).items()}
        run.best.train(training)
        return numbers

    def save(self, run: Run, stream: Stream, progress: Progress, checkpoints: Checkpoints) -> None:
        """Write a checkpoint. All ranks participate; rank 0 has the file on disk when this returns."""
        state = run.state_dict(stream.state_dict())
        if self.world.rank == 0:
            head = {"identity": self.signature(), "metrics": progress.position}
            if self.saving is not None:
                self.saving(state["streams"])
            checkpoints.write(run.step, {**head, **state})

    def interrupted(self, run: Run, signum: int) -> Interrupted:
        """What to raise after a signal; rank 0 has told the user how to go on."""
        text = (
            f"interrupted after step {run.step} of {self.training.steps} ({run.samples:,} pairs); everything is in "
            f"{self.folder / 'checkpoints'}: give the same command again to go on from here"
        )
        if self.world.rank == 0:
            print(text, file=sys.stderr, flush=True)
        if self.world.lifeline is not None:
            self.world.lifeline.close(None)  # all ranks stop here together, so none of them has failed
        return Interrupted(text, signum or signal.SIGTERM)  # 0: another rank was told

    def fitted(self, run: Run, metrics: Mapping[str, float]) -> Fitted:
        """The result of a run that is done."""
        return Fitted(run.best.eval().float(), run.step, run.samples, run.tally.seconds, run.watch.refused, metrics)


class Clock:
    """The time of a run, which goes on where its last part ended."""

    def __init__(self, run: Run) -> None:
        self.run, self.before, self.samples = run, run.tally.seconds, run.samples
        self.started = self.saved_at = time.monotonic()

    def tick(self, loss: float) -> dict[str, float]:
        """Bring the run's seconds up to date; loss and rate for the progress bar."""
        here = time.monotonic() - self.started
        self.run.tally.seconds = self.before + here
        return {"loss": loss, "samples_per_second": (self.run.samples - self.samples) / max(here, 1e-9)}

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self.saved_at >= self.run.settings.checkpoint_every

    def saved(self) -> None:
        """A checkpoint has just been written."""
        self.saved_at = time.monotonic()
