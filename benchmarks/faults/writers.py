"""Two writers of one folder, started at nearly the same moment: what is left is what one of them writes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from benchmarks.faults import runs, tars
from data_pipelines.commands.verify import Verify, problems
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings.store import EmbeddingStore
from eval.search.gallery import Gallery
from vlp.errors import UserError
from vlp.models import release

STEPS = 30
PICTURES = 400
Command = Callable[[Path], list[str]]
Whole = Callable[[Path], bool]


def attack(folder: Path, rng: random.Random, size: int) -> dict[str, tuple[int, str]]:
    """`size` pairs of writers for each kind of folder."""
    model = folder / "trained"
    first = runs.start(model, steps=STEPS)
    output = first.communicate()[0]
    if first.returncode:
        raise RuntimeError(output[-3000:])
    kinds = commands(folder, model / "model")
    mixed = sum(
        not one(folder / f"{kind}-{n}", command, whole, rng)
        for kind, (command, whole) in kinds.items()
        for n in range(size)
    )
    return {"mixed": (mixed, f"folders, of {size} runs, shard sets, stores and indexes each")}


def commands(folder: Path, model: Path) -> dict[str, tuple[Command, Whole]]:
    """By kind of folder: the command that writes it, and whether it is whole."""
    source, shards = folder / "pictures", folder / "shards"
    source.mkdir()
    for n in range(PICTURES):
        (source / f"{n:04d}.png").write_bytes(tars.picture(n))
        (source / f"{n:04d}.txt").write_text(f"picture number {n}")
    tars.shards(shards, [100] * (PICTURES // 100), manifest=True)
    vlp = str(runs.BIN / "vlp")
    id = release.load(model).id
    train = ["train.py", "demo", *runs.MODEL, "--training.batch", str(runs.BATCH), "--training.no-tensorboard"]
    train += ["--training.samples", str(runs.BATCH * STEPS), "--training.log-every", "1"]
    return {
        "run": (lambda out: [str(runs.BIN / "python"), *train, "--out", str(out)], run_is_whole),
        "shards": (lambda out: [vlp, "shards", "build", str(source), str(out), "--shard-size", "20"], shards_are_whole),
        "embeddings": (
            lambda out: [vlp, "embed", str(model), str(shards), str(out)],
            lambda out: store_is_whole(out, id),
        ),
        "index": (
            lambda out: [vlp, "index", "build", str(model), str(shards), str(out)],
            lambda out: (
                len(Gallery.open(out).vectors)
                == len(pq.read_table(Gallery.open(out).files / "rows.parquet"))
                == PICTURES
            ),
        ),
    }


def run_is_whole(out: Path) -> bool:
    """Whether one run wrote it."""
    return [row["step"] for row in runs.rows(out)] == list(range(1, STEPS + 1)) and bool(runs.weights(out))


def shards_are_whole(out: Path) -> bool:
    """Whether every picture is there once."""
    return sum(ShardSet.open(str(out)).counts or ()) == PICTURES and not list(problems(Verify(str(out))))


def store_is_whole(out: Path, model: str) -> bool:
    """Whether every sample is there once, under the model's name."""
    store = EmbeddingStore.open(out)
    keys = [key for part in store.parts for key in store.rows(part)["key"].to_pylist()]
    rows = sum(len(store.images(part)) for part in store.parts)
    return store.model == model and rows == len(keys) == len(set(keys)) == PICTURES


def one(out: Path, command: Command, whole: Whole, rng: random.Random) -> bool:
    """Two writers; whether one at least ended well, each other with a sentence, and the folder is whole."""
    first = runs.process(command(out))
    time.sleep(rng.uniform(0, 1))
    ended = [finish(process) for process in (first, runs.process(command(out)))]
    refused = [code == 2 and "Traceback" not in text for code, text in ended]
    right = any(code == 0 for code, _ in ended) and all(
        code == 0 or no for (code, _), no in zip(ended, refused, strict=True)
    )
    try:
        right = right and whole(out)
    except (UserError, OSError, ValueError) as error:
        print(f"{out.name}: {error}")
        right = False
    if not right:
        print(f"{out.name} is mixed:", *(f"exit code {code}: {text[-1500:]}" for code, text in ended), sep="\n")
    return right


def finish(process: psutil.Popen) -> tuple[int, str]:
    """How a process ended."""
    text: str = process.communicate(timeout=300)[0]
    return process.returncode, text
