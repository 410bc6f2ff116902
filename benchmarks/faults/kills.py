"""kill -9 at random moments of a training on damaged shards: the same command goes on to the same weights."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import psutil

from benchmarks.faults import runs
from data_pipelines.remote.fetch import LocalFile
from data_pipelines.shards.shard_set import BUNDLED
from data_pipelines.shards.tar_index import build

STEPS = 160
WORKERS = (0, 1, 2, 3)
KEPT = ("delivered", "again", "drops")
START_SHARE = 0.3  # of the kills come while the run starts


def attack(folder: Path, rng: random.Random, size: int) -> dict[str, tuple[int, str]]:
    """`size` kills over as many runs as they take, each life with another number of workers."""
    shards = damaged_copy(folder / "shards")
    whole = folder / "whole"
    begun = time.monotonic()
    finish(start(whole, shards, 2))
    seconds = time.monotonic() - begun
    kills = lost = different = 0
    while kills < size:
        out = folder / f"killed-{kills}"
        kills += lives(out, shards, rng, seconds, most=size - kills)
        lost += samples_lost(out, whole)
        different += runs.weights(out) != runs.weights(whole)
        shutil.rmtree(out)
    return {
        "lost_samples": (lost, f"samples, of {size} kills"),
        "different_weights": (different, f"runs, of {size} kills"),
    }


def damaged_copy(folder: Path) -> Path:
    """The bundled validation shards; every tenth picture is zeros."""
    shutil.copytree(BUNDLED / "emoji" / "val", folder)
    for path in folder.glob("*.tar"):
        data = bytearray(path.read_bytes())
        for offset, size in build(LocalFile(str(path))).spans[::10, 0].tolist():
            data[offset : offset + size] = bytes(size)
        path.write_bytes(data)
    return folder


def start(out: Path, shards: Path, workers: int) -> psutil.Popen:
    """The run that is killed: a checkpoint after every step, so that many kills fall into their writing."""
    flags = ("--data.shards", str(shards), "--data.drop-budget", "0.5", "--data.workers.count", str(workers))
    return runs.start(out, steps=STEPS, flags=(*flags, "--training.checkpoint-every", "0"))


def finish(run: psutil.Popen) -> None:
    """Wait for a good end."""
    output = run.communicate(timeout=600)[0]
    if run.returncode:
        raise RuntimeError(f"a run that nobody killed ended with {run.returncode}:\n{output[-3000:]}")


def lives(out: Path, shards: Path, rng: random.Random, seconds: float, most: int) -> int:
    """Start the run again and again, and kill it, until it is done; how often it was killed."""
    kills = 0
    while kills < most:
        run = start(out, shards, rng.choice(WORKERS))
        before = len(runs.rows(out))
        if rng.random() < START_SHARE:
            time.sleep(rng.uniform(0, seconds / 2))
        else:
            while run.poll() is None and len(runs.rows(out)) <= before:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, seconds / 6))
        if run.poll() is not None:
            finish(run)
            return kills
        children = run.children(recursive=True)
        run.kill()
        run.communicate()
        _, alive = psutil.wait_procs(children, timeout=60)
        if alive:
            raise RuntimeError(f"{len(alive)} processes of a killed run go on")
        kills += 1
    finish(start(out, shards, rng.choice(WORKERS)))
    return kills


def samples_lost(out: Path, whole: Path) -> int:
    """Samples of the steps that are missing, doubled or other than in the undisturbed run, and of wrong counts."""
    expected = {row["step"]: row["loss"] for row in runs.rows(whole)}
    rows = runs.rows(out)
    got = {row["step"]: row["loss"] for row in rows}
    wrong = sum(got.get(step) != loss for step, loss in expected.items()) + len(rows) - len(got)
    a, b = (json.loads((folder / "ledger.json").read_text()) for folder in (whole, out))
    counts = abs(a["delivered"] - b["delivered"]) + abs(a["dropped"] - b["dropped"])
    return runs.BATCH * wrong + counts + any(a[key] != b[key] for key in KEPT)
