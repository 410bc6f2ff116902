"""The training loop."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from vlp.augment import Augment
from vlp.batch import Batch
from vlp.choosers import Chooser
from vlp.choosers.none import Everything
from vlp.config import identity, to_tree
from vlp.distributed.background import BackgroundGroup
from vlp.distributed.sharded import Sharded, sharded
from vlp.distributed.world import World
from vlp.errors import UserError
from vlp.losses import Objective
from vlp.losses._engine.peers import ALONE
from vlp.training import memory
from vlp.training.announcement import batch_norms, chunk_warning, first_line
from vlp.training.bank import PairBank
from vlp.training.checkpoints.folder import Checkpoints, Keep
from vlp.training.checkpoints.identity import flat
from vlp.training.checkpoints.store import place_of
from vlp.training.choosing import Choosing
from vlp.training.clock import Clock
from vlp.training.companion import Companion
from vlp.training.extension import extension
from vlp.training.forwards import Forwards
from vlp.training.hooks.profile import Trace
from vlp.training.interruption import Interrupted, Interruption
from vlp.training.parallel import Parallel, parallel
from vlp.training.parallel.precision import HALF, feature_dtype, resolve
from vlp.training.peak import Utilisation
from vlp.training.planning import Planner
from vlp.training.refused import Refusals
from vlp.training.saving import Positions, Saving
from vlp.training.settings import Training
from vlp.training.sinks import Sink, Sinks
from vlp.training.sinks.console import Bar, Lines
from vlp.training.sinks.json_lines import JsonLines
from vlp.training.sinks.tensorboard import Tensorboard
from vlp.training.sinks.wandb import Wandb
from vlp.training.state import TrainState
from vlp.training.table import Kept
from vlp.training.teaching import Guide, Setting, Teaching, width_of
from vlp.training.texts import in_bucket
from vlp.training.watching import Watching


def nothing_locked(samples: int) -> AbstractContextManager[None]:
    """A context in which every gradient counts."""
    return nullcontext()


Evaluate = Callable[[nn.Module], Mapping[str, float]]


class Batches(Protocol):
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
    loss: Objective
    open_stream: Callable[[Any], Batches]
    """the data from the saved positions of all ranks, on any number of ranks; from the beginning if that is None"""
    folder: Path
    """where metrics.jsonl, events and checkpoints go"""
    world: World = field(default_factory=World.alone)
    evals: Mapping[str, Evaluate] = field(default_factory=dict)
    """by name; every rank calls each of them with the same weights, and rank 0's numbers are kept"""
    augment: Augment | None = None
    """changes a batch of pictures on the device; its draws are the only source of chance"""
    unlocking: Callable[[int], AbstractContextManager[None]] = nothing_locked
    """given the pairs seen so far, a context in which the gradient of layers that are locked till later is left out"""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """settings outside of `training` that a resumed run must share: the model's, the data's"""
    earlier: Mapping[str, Any] = field(default_factory=dict)
    """what a version did that did not have some of these settings yet"""
    saving: Callable[[Positions], None] | None = None
    """called with the positions of all ranks in the data, on rank 0, before each checkpoint"""
    context: int = 0
    """most tokens of a text, where they come trimmed to the longest of a batch; 0: all come with one length"""
    choose: Chooser = field(default_factory=Everything)
    """which pairs of a larger batch are trained on; the stream gives all that it looks at"""
    planner: Planner | None = None
    """who orders epochs by what the model finds alike"""
    example: Batch | None = None
    """a few pairs as the stream would give them; with it, memory is estimated before anything starts"""
    guide: Guide | None = None
    """the teacher of the run"""

    def fit(self) -> Fitted:
        """The trained model. All ranks participate; a checkpoint in the folder is continued, to the same result.

        Raises UserError if a checkpoint belongs to another run, if memory will not do, if the disk is full, or if the
        guard gives up; Interrupted, with a checkpoint written, if a signal asked to stop.
        """
        state, watching, sinks, saving = self.start()
        training, clock = self.training, Clock(state)
        refusals = Refusals(self.folder, training.guard, state.parallel)
        metrics: dict[str, float] = {}
        asked = False  # whether the minutes between two evaluations are over
        with sinks, saving.checkpoints, Interruption() as interruption, self.trace() as trace:
            while state.step < training.steps:
                self.plan(state, watching.stream)
                batch = state.choose(self.fitting(watching.next()).to(self.world.device))
                with self.unlocking(state.samples):
                    loss = state.gradient(batch)  # encode, sharded objective, its gradients, replay; one sync
                norm = state.clip()
                state.update(loss, norm)  # guard, step, clamp the scale, average
                if state.watch.verdict:
                    refusals.keep(batch, state.watch, step=state.step, loss=loss, norm=norm)
                if state.watch.lost:
                    saving.go_back(sinks, loss=loss, norm=norm)
                    continue
                sinks.moved(state.samples, clock.tick(loss))
                trace.step()
                done = state.step == training.steps
                if done or state.step % training.log_every == 0:
                    sinks.record(watching.row(state.row()))
                measured: dict[str, float] = {}
                if training.evaluates and (done or asked or training.evaluates_after(state.step)):
                    metrics = measured = self.evaluate(state)
                    clock.evaluated()
                    sinks.record({"step": state.step, "samples": state.samples, **metrics})
                due = saving.due(clock.since_saved, measured)
                save, stop, asked = state.parallel.any_rank(due, interruption.asked, clock.evaluation_due)
                if done or save or stop:
                    clock.tick(loss)
                    saving.write(watching.stream.state_dict(), sinks, measured)
                    clock.saved()
                if stop and not done:
                    saving.checkpoints.wait()
                    raise self.interrupted(state, interruption.signum)
        return self.fitted(state, metrics)

    def start(self) -> tuple[TrainState, Watching, Sinks, Saving]:
        """Everything built, and where a checkpoint left it. All ranks participate."""
        training, world = self.training, self.world
        if training.batch % world.size:
            raise UserError(
                f"training.batch is {training.batch}, which {world.size} processes cannot share evenly; "
                f"make it {training.batch // world.size * world.size or world.size} or another multiple of {world.size}"
            )
        self.choose.refuse(training.batch, world.size)
        if training.threads:
            torch.set_num_threads(training.threads)
        half = HALF.get(resolve(training.precision, world.device))
        chunked = 0 < training.chunk < training.batch // world.size
        ranks = parallel(training.parallel, world, half, chunked=chunked)
        self.model.to(world.device)
        self.refuse_too_much(ranks)
        utilisation = self.utilisation(ranks)
        keep = Keep(training.keep, training.keep_every, training.keep_best)
        group = BackgroundGroup.open(world)
        defaults = flat({**self.earlier, "training": identity(Training())})
        checkpoints = Checkpoints(place_of(training.checkpoints, self.folder), keep, group, defaults)
        if not training.resume:
            if world.rank == 0:
                checkpoints.clear()
                shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
            group.everyones(None)  # nobody looks for a checkpoint before rank 0 has removed them
        features = feature_dtype(training.features, training.precision, world.device)
        objective = sharded(self.loss, world, training.negatives, features=features)
        companions = self.companions(objective, ranks)
        choosing = self.choosing(objective)
        state = TrainState(
            training, self.model, objective, ranks, self.augment, companions=companions, choosing=choosing
        )
        saving = Saving(state, checkpoints, self.signature(), self.folder, self.saving)
        begun = saving.begin(training.resume_from)
        if world.rank == 0:
            self.announce(state)
            if begun.identity and (change := extension(begun.identity, training, state.step)):
                print(change, flush=True)
        watching = Watching(self.open_stream(begun.positions), world.device, utilisation)
        return state, watching, self.sinks(state, begun.row), saving

    def companions(self, objective: Sharded, ranks: Parallel) -> tuple[Companion, ...]:
        """What goes along with the run for its objective; the teacher first, as others keep what it says."""
        example = self.example if self.guide is not None or self.loss.bank is not None else None
        width = 0 if example is None else width_of(self.model, example.to(self.world.device))
        bank = PairBank.of(objective, batch=self.training.batch, width=width)
        return (*self.teaching(ranks, width), *bank, *Kept.of(objective, self.precise))

    @property
    def precise(self) -> torch.dtype:
        """What companions compute and keep in."""
        fp64 = resolve(self.training.precision, self.world.device) == "fp64"
        return torch.float64 if fp64 else torch.float32

    def teaching(self, ranks: Parallel, width: int) -> list[Teaching]:
        """The teacher, if there is one, at work on this rank."""
        if self.guide is None:
            return []
        training, device = self.training, self.world.device
        setting = Setting(device, self.precise, ranks.half, training.chunk, width)
        return [Teaching.begin(self.guide, self.model, setting, wanted=self.loss.guide_width(width))]

    def choosing(self, objective: Sharded) -> Choosing | None:
        """How the pairs of a step are chosen; None where all are trained on."""
        if isinstance(self.choose, Everything):
            return None
        everyone = objective.everyone if self.world.size > 1 else ALONE
        chooser = self.choose.taught(self.guide.scale if self.guide else 0.0)
        return Choosing(chooser, self.guide, everyone, self.training.batch, self.training.chunk)

    def fitting(self, batch: Batch) -> Batch:
        """The batch with texts of one of a few lengths, where each length is compiled."""
        training = self.training
        return in_bucket(batch, training.bucket, self.context) if training.compile and self.context else batch

    def announce(self, state: TrainState) -> None:
        """Say what this run is, and what does not hold in it."""
        print(first_line(self.training, self.world, state.objective.strategy), flush=True)
        if warning := chunk_warning(self.model, self.training, self.world):
            print(warning, file=sys.stderr, flush=True)

    def signature(self) -> dict[str, Any]:
        """What two parts of one run must share: settings, loss, data, names and shapes of the weights."""
        loss = {"kind": type(self.loss).__module__, **to_tree(self.loss)}
        weights = {k: str(tuple(v.shape)) for k, v in self.model.state_dict().items()}
        return flat({**self.identity, "training": identity(self.training), "loss": loss, "weight": weights})

    def refuse_too_much(self, ranks: Parallel) -> None:
        """Raise UserError if the run would not fit into memory, as far as `example` can tell."""
        if self.example is None:
            return
        training, world = self.training, self.world
        rows = training.batch // world.size
        chunk = min(training.chunk or rows, rows)
        forwards = Forwards.of(self.model, world.device, ranks.half, recomputed=training.recompute)
        need = memory.estimate(
            self.model,
            self.example.to(world.device),
            rows=rows,
            chunk=chunk,
            copies=1 + training.optimizer.state_per_weight + bool(training.ema),
            shards=ranks.shards,
            beside=self.guide.memory(self.model, ranks.shards) if self.guide else 0,
        )
        forwards.put_back()
        free = memory.available(world.device, world.local_size)
        memory.refuse_too_much(need, free, rows=rows, chunk=chunk, exact=not batch_norms(self.model))

    def utilisation(self, ranks: Parallel) -> Utilisation | None:
        """How the run's rate becomes an MFU, on rank 0, as far as `example` can tell."""
        if self.example is None or self.world.rank:
            return None
        dtype = ranks.half or (torch.float64 if self.training.precision == "fp64" else torch.float32)
        return Utilisation.measure(self.model, self.example.to(self.world.device), dtype, self.world.size)

    def sinks(self, state: TrainState, position: int) -> Sinks:
        """Where rank 0's numbers go; elsewhere nowhere. `position` is where a checkpoint left metrics.jsonl."""
        if self.world.rank:
            return Sinks([])
        training, total = self.training, self.training.steps * self.training.batch
        places: list[Sink] = [JsonLines(self.folder / "metrics.jsonl", position)]
        if training.tensorboard:
            places.append(Tensorboard(self.folder / "tensorboard", state.step))
        if training.wandb:
            places.append(Wandb(training.wandb, self.folder))
        places.append(Bar(total, state.samples) if sys.stdout.isatty() else Lines(total))
        return Sinks(places)

    def trace(self) -> Trace:
        """Rank 0's trace of some steps, if it is asked for."""
        return Trace(self.training.profile if self.world.rank == 0 else 0, self.folder)

    @torch.no_grad()
    def evaluate(self, state: TrainState) -> dict[str, float]:
        """The numbers of all evaluations, as name/number. All ranks participate."""
        with state.evaluated() as model:
            return {f"{name}/{k}": float(v) for name, call in self.evals.items() for k, v in call(model).items()}

    @torch.no_grad()
    def plan(self, state: TrainState, stream: Any) -> None:
        """Order the next epochs where that is due. All ranks participate."""
        if self.planner is not None and self.planner.due(stream):
            with state.evaluated() as model:
                self.planner.plan(model, stream)

    def interrupted(self, state: TrainState, signum: int) -> Interrupted:
        """What to raise after a signal; rank 0 prints how to go on."""
        text = (
            f"interrupted after step {state.step} of {self.training.steps} ({state.samples:,} pairs); everything is in "
            f"{self.folder / 'checkpoints'}: give the same command again to go on from here"
        )
        if self.world.rank == 0:
            print(text, file=sys.stderr, flush=True)
        if self.world.lifeline is not None:
            self.world.lifeline.close(None)  # all ranks stop here together, so none of them has failed
        return Interrupted(text, signum or signal.SIGTERM)  # 0: another rank got the signal

    def fitted(self, state: TrainState, metrics: Mapping[str, float]) -> Fitted:
        """The result of a run that is done. All ranks participate."""
        state.release()
        model = state.best().eval().float()
        return Fitted(model, state.step, state.samples, state.tally.seconds, state.watch.refused, metrics)
