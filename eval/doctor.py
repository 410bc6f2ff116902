"""`vlp doctor`: where the time of a training step goes, what bounds the run, and what to change."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from train import RunConfig, captions, trainer
from vlp.augment import of_rows
from vlp.batch import Batch
from vlp.config import COMMON, parse
from vlp.config.bounds import check
from vlp.distributed.sharded import sharded
from vlp.distributed.timing import Collectives, all_reduce_seconds, slowest
from vlp.distributed.world import World, connect
from vlp.files import check_writable
from vlp.training.forwards import Forwards
from vlp.training.gradient import apart as encoded
from vlp.training.gradient import at_embeddings, parted, split, spoken, with_companions
from vlp.training.parallel.precision import HALF, resolve
from vlp.training.peak import matmul_peak, settle, step_flops
from vlp.training.trainer import Batches

WARM = 3  # steps that are not counted: they allocate, and fill queues
REPEATS = 3  # of what is timed apart; the median counts


@dataclass(frozen=True)
class Doctor(RunConfig):
    """A run, and how long it is looked at."""

    steps: Annotated[int, Ge(WARM + 2), COMMON] = 20
    """steps that are run"""
    json: Annotated[bool, COMMON] = False
    """print JSON"""


@dataclass(frozen=True)
class Diagnosis:
    """Seconds of a step of the slowest rank, and what they are spent on. The parts are timed apart from each other."""

    step: float
    pairs_per_second: float
    data: float
    """waiting for the next batch"""
    encoding: float
    """both towers, forward and backward"""
    loss: float
    """without its collectives"""
    communication: float
    """collectives of the loss, and an all-reduce of the gradients as if nothing of it fell under the backward pass"""
    optimizer: float
    """norm, clip, step"""
    checkpoint: float
    """share of a step, at training.checkpoint_every"""
    checkpoint_seconds: float
    flops: float
    """operations of a step that the towers need, one rank"""
    peak: float
    """operations per second of the fastest matrix product on this device in the run's precision"""

    @property
    def mfu(self) -> float:
        """Share of the machine's measured matmul peak that the towers get."""
        return self.flops / (self.step * self.peak)

    @property
    def parts(self) -> dict[str, float]:
        """The parts of a step, seconds."""
        names = ("data", "encoding", "loss", "communication", "optimizer", "checkpoint")
        return {name: getattr(self, name) for name in names}

    @property
    def bound(self) -> str:
        """The largest part."""
        return max(self.parts, key=lambda name: self.parts[name])


def main(argv: Sequence[str]) -> int:
    """The command `vlp doctor RUN|PRESET [flags]`; under torchrun and srun too."""
    run = parse(Doctor, [config_of(word) for word in argv], "vlp doctor", __doc__ or "")
    check(run)
    with connect() as world:
        diagnosis = examine(run, world)
        if world.rank == 0:
            print(as_json(diagnosis) if run.json else report(diagnosis, run, world))
    return 0


def config_of(word: str) -> str:
    """The preset of a run's folder; other words as they are."""
    config = Path(word) / "config.toml"
    return str(config) if not word.startswith("-") and config.is_file() else word


class Watched:
    """A stream that notes when batches are asked for and how long they take to come."""

    def __init__(self, stream: Batches) -> None:
        self.stream = stream
        self.asked: list[float] = []
        self.waited: list[float] = []
        self.last: Batch | None = None

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.stream)
        while True:
            self.asked.append(time.perf_counter())
            self.last = next(batches)
            self.waited.append(time.perf_counter() - self.asked[-1])
            yield self.last

    def state_dict(self) -> dict[str, Any]:
        """The stream's own."""
        return self.stream.state_dict()


@dataclass
class _Notes:
    """What the run of some steps leaves behind."""

    streams: list[Watched] = field(default_factory=list)
    saving: float = 0.0
    ended: float = 0.0


def examine(run: Doctor, world: World) -> Diagnosis:
    """Run some steps in a folder beside the run's, then time the parts apart. All ranks participate."""
    folder = run.out.absolute().with_name(f".{run.out.name}.doctor")
    every = run.training.checkpoint_every
    quiet = replace(run.training, eval_every=0, eval_minutes=0.0, tensorboard=False, wandb="", profile=0)
    schedule = quiet.rates  # its lengths as shares: a warm-up in pairs is longer than these steps
    samples = run.steps * run.training.batch
    few = replace(quiet, samples=samples, schedule=schedule, checkpoint_every=1e9, resume=False, resume_from="newest")
    run = replace(run, out=folder, training=few)
    if world.rank == 0:
        check_writable(folder)
    torch.manual_seed(few.seed)
    sources = run.data.sources()
    tokenizer = run.model.tokenizer(captions(run.data, sources))
    encoder = run.model.build(tokenizer.vocab)
    run.model.start(encoder, scale=run.loss.start_scale, bias=run.loss.start_bias)
    run.towers.adapt(encoder)
    notes = _Notes()
    made = trainer(run, world, encoder, tokenizer, sources)

    def open_stream(state: Any) -> Watched:
        notes.streams.append(Watched(made.open_stream(state)))
        return notes.streams[-1]

    def saving(positions: Any) -> None:
        notes.saving = time.perf_counter()

    try:
        replace(made, open_stream=open_stream, saving=saving).fit()
        notes.ended = time.perf_counter()
    finally:
        if world.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
    return diagnose(run, world, encoder, notes, every)


def diagnose(run: Doctor, world: World, encoder: nn.Module, notes: _Notes, every: float) -> Diagnosis:
    """The step as it was, and its parts timed apart. All ranks participate."""
    stream, device = notes.streams[0], world.device
    assert stream.last is not None
    batch = stream.last.to(device)
    batch = replace(batch, image=of_rows(run.augment, batch.image, torch.Generator(device).manual_seed(0)))
    gaps = [after - before for before, after in zip(stream.asked, stream.asked[1:], strict=False)]
    encoder.train()
    precision = resolve(run.training.precision, device)
    seconds = {
        "step": statistics.median(gaps[WARM:]),
        "data": statistics.fmean(stream.waited[WARM:]),
        "checkpoint_seconds": notes.ended - notes.saving if notes.saving else 0.0,
    }
    training = run.training
    forwards = Forwards.of(
        encoder, device, HALF.get(precision), compiled=training.compile, recomputed=training.recompute
    )
    seconds |= apart(run, world, encoder, batch)
    forwards.put_back()
    seconds = slowest(world, seconds)
    flops = step_flops(encoder, batch[slice(0, 2)]) / 2 * len(batch)
    dtype = HALF.get(precision, torch.float64 if precision == "fp64" else torch.float32)
    return Diagnosis(
        **seconds,
        pairs_per_second=run.training.batch / seconds["step"],
        checkpoint=seconds["checkpoint_seconds"] * min(1.0, seconds["step"] / max(every, 1e-9)),
        flops=flops,
        peak=matmul_peak(device, dtype),
    )


def apart(run: Doctor, world: World, encoder: nn.Module, batch: Batch) -> Mapping[str, float]:
    """Seconds of the parts of a step, each on its own. All ranks participate."""
    device, chunks = world.device, split(batch, run.training.chunk)

    def encode() -> None:
        if len(chunks) > 1:
            with torch.no_grad():
                for chunk in chunks:
                    encoder(chunk.image, spoken(chunk))
        for chunk in chunks:
            own = encoder(chunk.image, spoken(chunk))
            (own.image.sum() + own.text.sum() + own.scale + own.bias).backward()

    with torch.no_grad():
        out = with_companions(batch, parted(encoded(encoder, chunks, 0, None), batch), None)
    objective = sharded(run.loss, world, run.training.negatives)

    def evaluate() -> None:
        at_embeddings(objective, out, takes_all=run.loss.takes_all)

    watch = Collectives()
    encoding, whole = timed(encode, device), timed(evaluate, device)
    with watch:
        evaluate()
    optimizers = run.training.optimizer.build(encoder)
    parameters = [p for p in encoder.parameters() if p.grad is not None]

    def optimize() -> None:
        clip_grads_with_norm_(parameters, 1.0, get_total_norm([p.grad for p in parameters if p.grad is not None]))
        for optimizer in optimizers:
            optimizer.step()

    reduced = all_reduce_seconds(world, sum(4 * p.numel() for p in parameters))
    return {
        "encoding": encoding,
        "loss": max(0.0, whole - watch.seconds),
        "communication": min(watch.seconds, whole) + reduced,
        "optimizer": timed(optimize, device),
    }


def timed(call: Callable[[], None], device: torch.device) -> float:
    """Seconds of a call: the median of some, after one that does not count."""
    taken = []
    for _ in range(REPEATS + 1):
        settle(device)
        began = time.perf_counter()
        call()
        settle(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def as_json(diagnosis: Diagnosis) -> str:
    """The diagnosis for programs."""
    return json.dumps({**asdict(diagnosis), "mfu": diagnosis.mfu, "bound": diagnosis.bound}, indent=1)


def report(diagnosis: Diagnosis, run: RunConfig, world: World) -> str:
    """The diagnosis as text."""
    ranks = "1 process" if world.size == 1 else f"{world.size} processes"
    lines = [f"a step of {run.training.batch:,} pairs on {ranks}: {diagnosis.step * 1e3:,.1f} ms, "]
    lines[0] += (
        f"{diagnosis.pairs_per_second:,.0f} pairs/s; MFU {diagnosis.mfu:.1%} of {diagnosis.peak / 1e12:,.2f} TFLOP/s"
    )
    lines += ["", "part              ms   of the step"]
    parts = dict(diagnosis.parts)
    parts["the rest"] = diagnosis.step - sum(seconds for name, seconds in parts.items() if name != "checkpoint")
    lines += [f"{name:<13} {s * 1e3:>6,.1f} {s / diagnosis.step:>13.1%}" for name, s in parts.items()]
    lines += ["", f"a checkpoint takes {diagnosis.checkpoint_seconds:,.2f} s", ""]
    return "\n".join([*lines, f"{diagnosis.bound} bounds this run: {ADVICE[diagnosis.bound](diagnosis, run)}"])


def _for_data(diagnosis: Diagnosis, run: RunConfig) -> str:
    workers, cores = run.data.workers.count, os.cpu_count() or 1
    if workers < cores - 1:
        return f"let more processes decode (--data.workers.count {max(workers + 1, cores - 1)}, now {workers})"
    return "store smaller pictures (vlp shards build), or keep decoded ones (--data.workers.cache-bytes)"


def _for_encoding(diagnosis: Diagnosis, run: RunConfig) -> str:
    if run.training.precision not in ("auto", "bf16"):
        return f"multiply in half precision (--training.precision bf16, now {run.training.precision})"
    if not run.training.compile:
        return "compile the towers (--training.compile); above half of the peak only a smaller model is faster"
    return "a larger batch or a smaller model; this is where the time should go"


def _for_loss(diagnosis: Diagnosis, run: RunConfig) -> str:
    return "ask `vlp plan` for the quickest strategy (--training.negatives), or take fewer pairs a step"


def _for_communication(diagnosis: Diagnosis, run: RunConfig) -> str:
    return "more pairs between two syncs (--training.batch with --training.chunk), or another --training.negatives"


def _for_optimizer(diagnosis: Diagnosis, run: RunConfig) -> str:
    return "take more pairs a step (--training.batch)"


def _for_checkpoint(diagnosis: Diagnosis, run: RunConfig) -> str:
    return f"write fewer (--training.checkpoint-every, now {run.training.checkpoint_every:g} s)"


ADVICE: dict[str, Callable[[Diagnosis, RunConfig], str]] = {
    "data": _for_data,
    "encoding": _for_encoding,
    "loss": _for_loss,
    "communication": _for_communication,
    "optimizer": _for_optimizer,
    "checkpoint": _for_checkpoint,
}
