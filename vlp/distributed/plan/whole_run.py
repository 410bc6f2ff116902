"""What a whole run will cost on a cluster: hours, storage, decoding, checkpoints, failures, the loss. Closed forms.

step = max(encode + loss + max(0, sync - 2/3 encode), bytes of a batch / storage rate)
sync = 2 all-gathers of 4 P / N bytes (FSDP2: 3), under the backward pass, which is 2/3 of the encoding
interval and hours with failures: Daly, A higher order estimate of the optimum checkpoint interval for restart dumps
    (Future Generation Computer Systems 22, 2006), equations 37 and 20
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Literal

from vlp.distributed.plan.cluster import Cluster
from vlp.distributed.plan.cost import GRADIENT, Cost, Load, Setup, candidates, collective, recommended

BACKWARD = 2 / 3  # of forward and backward together
PASSES = 3.0  # operations of a training step per operation of a forward pass
ANEW = 1.0  # and one forward pass more where chunks are encoded twice


@dataclass(frozen=True)
class Work:
    """What a run does to each pair, and how many there are."""

    samples: int
    """pairs seen, repetitions counted"""
    batch: int
    """pairs of a step, all ranks together"""
    width: int
    """of the embeddings"""
    forward: float
    """operations of both towers' forward pass, per pair"""
    parameters: int
    """of both towers"""
    copies: float
    """numbers kept for each parameter besides itself: gradient, optimizer, average"""
    saved: float
    """of these, those that a checkpoint holds"""
    activations: float
    """bytes that the backward pass of one pair keeps"""
    chunk: int
    """pairs of a rank in one graph; 0: all"""
    pair_bytes: float
    """bytes of a pair in the shards"""
    decode: float
    """CPU seconds of one picture: bytes to pixels"""
    element: int = 2
    """bytes of an element of the features that travel"""
    statistics: int = 1
    """log-sum-exps of the objective"""
    parallel: Literal["ddp", "fsdp2", "hybrid"] = "ddp"
    """who has weights, gradients and optimizer state: each rank all of them, all ranks a part, or those of a node"""
    recompute: bool = False
    """blocks are encoded again in the backward pass"""


@dataclass(frozen=True)
class WholeRun:
    """A planned run. Times of steps in seconds, of the run in hours, sizes in bytes."""

    steps: int
    encode: float
    loss: float
    sync: float
    """of the gradients, as far as it does not fit under the backward pass"""
    waiting: float
    """for storage, per step"""
    step: float
    hours: float
    """without failures"""
    gpu_hours: float
    """with failures"""
    pairs_per_second: float
    bytes_per_second: float
    requests_per_second: float
    cores: float
    """CPU cores per GPU that decode"""
    cores_there: float
    checkpoint: float
    checkpoint_seconds: float
    interval: float
    """seconds between two checkpoints, Daly's best"""
    failures: float
    """expected during the run"""
    lost: float
    """hours: checkpoints, work done again, restarts"""
    memory: float
    """of a GPU: weights and what belongs to them, activations, the loss"""
    strategy: str
    strategies: tuple[Cost, ...]

    @property
    def elapsed(self) -> float:
        """Hours with failures."""
        return self.hours + self.lost


def setup_of(work: Work, cluster: Cluster) -> Setup:
    """The same for the cost model of the loss."""
    return Setup(
        ranks=cluster.ranks,
        pairs=work.batch // cluster.ranks,
        width=work.width,
        per_node=min(cluster.gpus, cluster.ranks),
        element=work.element,
        inside=cluster.links.inside * 1e9,
        between=cluster.links.between * 1e9,
        flops=cluster.tflops * 1e12,
        statistics=work.statistics,
    )


def plan(work: Work, cluster: Cluster) -> WholeRun:
    """The run, planned."""
    setup, steps = setup_of(work, cluster), math.ceil(work.samples / work.batch)
    rows = setup.pairs
    graph = min(work.chunk or rows, rows)
    passes = PASSES + ANEW * (graph < rows) + ANEW * work.recompute
    shards = {"ddp": 1, "fsdp2": setup.ranks, "hybrid": setup.per_node}[work.parallel]
    state = work.parameters * GRADIENT * (1 + work.copies) / shards
    room = cluster.memory * 1e9 - state - work.activations * graph
    chosen = recommended(setup, memory=room)
    encode = passes * work.forward * rows / setup.flops
    whole = syncing(setup, work.parameters, shards)
    last = PASSES / passes * encode  # ranks sync on the last pass over a chunk
    sync = max(0.0, whole - BACKWARD * last * graph / rows)
    busy = encode + chosen.seconds + sync
    step = max(busy, work.batch * work.pair_bytes / (cluster.storage.read * 1e9))
    rate = work.batch / step
    hours = steps * step / 3600
    size = work.parameters * GRADIENT * (1 + work.saved)
    dump = size / (cluster.storage.write * 1e9)
    between = cluster.failures.node_hours * 3600 / cluster.nodes
    best = daly_interval(dump, between)
    elapsed = daly_hours(hours, dump, best, between, cluster.failures.restart_minutes * 60)
    return WholeRun(
        steps=steps,
        encode=encode,
        loss=chosen.seconds,
        sync=sync,
        waiting=step - busy,
        step=step,
        hours=hours,
        gpu_hours=elapsed * cluster.ranks,
        pairs_per_second=rate,
        bytes_per_second=rate * work.pair_bytes,
        requests_per_second=rate * work.pair_bytes / (cluster.storage.request * 1e6),
        cores=rate * work.decode / cluster.ranks,
        cores_there=cluster.cores / cluster.gpus,
        checkpoint=size,
        checkpoint_seconds=dump,
        interval=best,
        failures=elapsed * 3600 / between,
        lost=elapsed - hours,
        memory=state + work.activations * graph + chosen.memory,
        strategy=chosen.name,
        strategies=tuple(candidates(setup)),
    )


def syncing(setup: Setup, parameters: int, shards: int) -> float:
    """Seconds in which gradients and weights travel, if nothing else happens meanwhile; `shards` ranks share a copy.

    Those gather the weights for the forward and the backward pass and scatter the gradients (three all-gathers'
    bytes); the copies all-reduce what each rank has of the gradients (two).
    """
    copies, part = setup.ranks // shards, GRADIENT * parameters / shards
    inside = collective(setup, shards, 1, part) if shards > 1 else Load()
    across = collective(setup, copies, shards, part / copies)

    def seconds(load: Load) -> float:
        return load.inside / setup.inside + load.between / setup.between + load.hops * setup.hop

    return 3 * seconds(inside) + 2 * seconds(across)


def daly_interval(dump: float, between: float) -> float:
    """The best time between two checkpoints, seconds: each takes `dump`, failures come every `between` (eq. 37)."""
    if dump >= 2 * between:
        return between
    share = dump / (2 * between)
    return math.sqrt(2 * dump * between) * (1 + math.sqrt(share) / 3 + share / 9) - dump


def daly_hours(hours: float, dump: float, interval: float, between: float, restart: float) -> float:
    """Hours that `hours` of work take with checkpoints and failures; the other times in seconds (eq. 20)."""
    return between * math.exp(restart / between) * math.expm1((interval + dump) / between) * hours / interval


def report(run: WholeRun, work: Work, cluster: Cluster) -> str:
    """The plan as text."""
    ms = 1e3
    lines = [
        f"{cluster.ranks:,} GPUs in {cluster.nodes:,} nodes; {work.samples:,} pairs, {run.steps:,} steps "
        f"of {work.batch:,}",
        "",
        f"time         {run.hours:,.1f} hours without failures, {run.elapsed:,.1f} with; "
        f"{run.gpu_hours:,.0f} GPU-hours",
        f"step         {run.step * ms:,.1f} ms: encoding {run.encode * ms:,.1f}, loss {run.loss * ms:,.1f}, gradients "
        f"{run.sync * ms:,.1f}, waiting for storage {run.waiting * ms:,.1f}",
        f"storage      {run.bytes_per_second / 1e9:,.2f} GB/s of {cluster.storage.read:g}, "
        f"{run.requests_per_second:,.0f} requests/s ({run.pairs_per_second:,.0f} pairs/s)",
        f"decoding     {run.cores:,.1f} CPU cores per GPU of {run.cores_there:,.1f} "
        f"({work.decode * ms:,.2f} ms a picture, measured here)",
        f"memory       {run.memory / 1e9:,.1f} GB of {cluster.memory:g}",
        f"checkpoint   {run.checkpoint / 1e9:,.2f} GB in {run.checkpoint_seconds:,.1f} s; best every "
        f"{run.interval / 60:,.1f} minutes (training.checkpoint_every = {run.interval:.0f})",
        f"failures     {run.failures:,.1f} expected; {run.lost:,.2f} hours lost to checkpoints, failures and restarts",
        "",
        "what the loss costs   ms a step   of the step   GPU-hours   peak MB",
    ]
    for row in shown(run):
        step = max(run.step - run.waiting - run.loss + row.seconds, run.step - run.waiting - run.loss)
        mark = "> " if row.name == run.strategy else "  "
        note = "" if row.exact else "   approximate"
        lines.append(
            f"{mark}{row.name:<18} {row.seconds * ms:>10,.2f} {row.seconds / step:>12.1%} "
            f"{row.seconds * run.steps * cluster.ranks / 3600:>11,.0f} {row.memory / 1e6:>9,.0f}{note}"
        )
    return "\n".join([*lines, "", *warnings(run, cluster)]).rstrip()


def shown(run: WholeRun) -> list[Cost]:
    """The three quickest grids, one-sided, ring and grouped."""
    grids = [row for row in run.strategies if row.name.startswith("grid")]
    some = [
        row for row in run.strategies if row in grids[:3] or row.note == "one-sided" or not row.name.startswith("grid")
    ]
    return sorted(some, key=lambda row: (not row.exact, row.seconds))


def warnings(run: WholeRun, cluster: Cluster) -> list[str]:
    """What does not work, and what to change."""
    out = []
    if run.waiting > 0:
        out.append("storage bounds the run: read more per second, or make the pairs smaller (vlp shards reshard)")
    if run.cores > run.cores_there:
        out.append("decoding needs more CPU cores than there are: store smaller pictures, or add cores")
    if run.memory > cluster.memory * 1e9:
        out.append("it does NOT fit into the memory of a GPU: set --training.chunk, or a smaller batch")
    return out


def as_dict(run: WholeRun) -> dict[str, object]:
    """The plan for JSON."""
    return {
        **asdict(replace(run, strategies=())),
        "elapsed": run.elapsed,
        "strategies": [asdict(r) for r in run.strategies],
    }
