"""The service under load: 64 clients on loopback, beside the same questions answered in a process without HTTP.

    python -m benchmarks.search_serve --json benchmarks/results/search_serve.json

`serve.throughput` is answers a second with ten matches and their small pictures, by `vlp serve`, for 60 s in five
parts; between them the same questions are answered 64 at a time by `Gallery.search` in a process with the same model,
index and threads (the peer). Clients and service share the cores, so that the service has less of them than the peer.
The model has a text tower of CLIP's size (12 layers of 512) with random weights; `serve.small_throughput` is the same
with the demo's, which embeds a text in microseconds, so that nearly all there is to measure is HTTP.
`serve.p99_over_p50` is of the seconds that clients wait. Then versions of the index come and go for a minute, and 20 of
their writers are killed: `serve.errors` counts requests without an answer, `serve.lost` versions that were acknowledged
and are not there, and `serve.memory` is of the process at the end, beside the same after 10 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil

from benchmarks import record
from benchmarks.evaluate import BENCH, ROOT, demo_model
from benchmarks.faults import index_changes, index_kills
from benchmarks.search_clients import Asked, ask

WORK = BENCH / "serve"
SPLITS = "bundled:emoji/test_style::bundled:emoji/test_concept::bundled:emoji/test_style_concept"
CLIENTS, K, BATCH, KILLS = 64, 10, 64, 20
PEER = "Gallery.search of the same questions, 64 at a time, in a process with as many threads"
IN_PROCESS = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
from eval.search.gallery import Gallery
from vlp.models import release
threads, batch, k = map(int, sys.argv[3:])
torch.set_num_threads(threads)
gallery, loaded = Gallery.open(Path(sys.argv[1])), release.load(sys.argv[2])
texts = json.loads(sys.stdin.readline())
for line in sys.stdin:
    begun, count = time.perf_counter(), 0
    while (took := time.perf_counter() - begun) < float(line):
        some = [texts[(count + i) % len(texts)] for i in range(batch)]
        count += len(gallery.search(loaded, np.asarray(loaded.embed_texts(some)), k))
    print(count / took, flush=True)
"""


def questions(index: Path) -> list[str]:
    """Captions of the index's pictures in all their languages, in an order that is random and always the same."""
    import pyarrow.parquet as pq

    from eval.search.gallery import Gallery

    said = pq.read_table(Gallery.open(index).files / "rows.parquet", columns=["captions"])["captions"].to_pylist()
    texts = sorted({text for row in said for text in json.loads(row).values()})
    random.Random(0).shuffle(texts)
    return texts


def environment(threads: int) -> dict[str, str]:
    """Of both sides."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(ROOT),
        "TOKENIZERS_PARALLELISM": "false",
    }


@contextmanager
def served(index: Path, threads: int, *flags: str) -> Iterator[tuple[str, psutil.Process]]:
    """`vlp serve` as a process: its address, and itself."""
    command = [sys.executable, "-m", "vlp.cli", "serve", str(index), "--port", "0", "--rate", "0", *flags]
    command += ["--threads", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(threads), cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[0], psutil.Process(process.pid)
        finally:
            process.terminate()


class InProcess:
    """The peer: it answers for so many seconds when it is asked to."""

    def __init__(self, index: Path, model: str, threads: int, texts: list[str]) -> None:
        command = [sys.executable, "-c", IN_PROCESS, str(index), model, str(threads), str(BATCH), str(K)]
        self._run = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(threads), cwd=ROOT
        )
        self._say(json.dumps(texts))

    def _say(self, line: str) -> None:
        assert self._run.stdin is not None
        print(line, file=self._run.stdin, flush=True)

    def rate(self, seconds: float) -> float:
        """Answers a second."""
        assert self._run.stdout is not None
        self._say(str(seconds))
        return float(self._run.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._run.communicate()


def load(index: Path, model: str, name: str, *, rounds: int, seconds: float, threads: int) -> Iterator[dict[str, Any]]:
    """Throughput and what clients wait, of `rounds` that last so many seconds; `name` begins the names of the rows."""
    texts = questions(index)
    peer = InProcess(index, model, threads, texts)
    with served(index, threads) as (address, _):
        asyncio.run(ask(address, texts, k=K, clients=CLIENTS, seconds=min(2.0, seconds)))
        peer.rate(min(2.0, seconds))
        answers: list[Asked] = []
        rates: list[float] = []
        for _ in range(rounds):
            rates.append(peer.rate(seconds / 2))
            answers.append(asyncio.run(ask(address, texts, k=K, clients=CLIENTS, seconds=seconds)))
    peer.close()
    errors = [error for one in answers for error in one.errors]
    assert not errors, errors[:3]
    yield record.row(f"{name}throughput", "answers/s", [one.rate for one in answers], rates, PEER)
    p50, p99 = ([one.quantile(share) for one in answers] for share in (0.5, 0.99))
    yield record.row(f"{name}p99_over_p50", "", [a / b for a, b in zip(p99, p50, strict=True)])
    yield record.row(f"{name}p50", "ms", [1000 * one for one in p50])
    yield record.row(f"{name}p99", "ms", [1000 * one for one in p99])


@dataclass
class Attack:
    """What clients saw of a service while versions of its index came, and their writers were killed."""

    asked: Asked
    life: index_kills.Life
    swaps: int = 0  # versions that the service has taken up
    early: float = 0.0  # MiB of the service, a sixth of the time after the start
    end: float = 0.0


def attack(
    index: Path, world: index_changes.World, content: index_changes.Content, *, kills: int, seconds: float, threads: int
) -> Attack:
    """An attack of at least so many seconds and kills; it ends by itself in minutes."""
    texts, done = questions(index), threading.Event()
    result = Attack(Asked(), index_kills.Life(world, index, content, random.Random(0), index_changes.CHANGES[1:]))

    def clients() -> None:
        while not done.is_set():
            some = asyncio.run(ask(address, texts, k=K, clients=CLIENTS, seconds=2.0))
            result.asked.seconds += some.seconds
            result.asked.errors += some.errors

    with served(index, threads, "--look-every", "0.2") as (address, process):
        begun, thread = time.monotonic(), threading.Thread(target=clients)
        thread.start()
        time.sleep(seconds / 6)
        result.early = process.memory_info().rss / 2**20
        result.life.go_on(kills, until=begun + max(240.0, 4 * seconds))
        time.sleep(max(0.5, begun + seconds - time.monotonic()))
        done.set()
        thread.join()
        result.end = process.memory_info().rss / 2**20
        with urlopen(f"{address}/health") as answer:
            result.swaps = json.load(answer)["swaps"]
    return result


def attacked(index: Path, model: str, *, kills: int, seconds: float, threads: int) -> Iterator[dict[str, Any]]:
    """Rows of an attack."""
    world, content = index_changes.world_of(index, Path(model), WORK / "world")
    result = attack(index, world, content, kills=kills, seconds=seconds, threads=threads)
    asked, life = result.asked, result.life
    name = f"of {len(asked.seconds):,} answers, {result.swaps} versions taken up, {life.kills} killed writers"
    yield record.row("serve.errors", f"errors, {name}", [len(asked.errors)])
    yield record.row("serve.lost", f"versions, {name}", [len(life.wrong)])
    yield record.row("serve.memory", "MiB", [result.end], [result.early], "the same service, earlier")
    print(*life.wrong, *asked.errors[:5], sep="\n", file=sys.stderr)


def clip_sized(texts: list[str], folder: Path) -> str:
    """A model folder whose text tower has the size of CLIP's, with random weights, and whose pictures are small."""
    import torch

    from vlp.models import release
    from vlp.models.image.timm import Timm
    from vlp.models.kinds.two_towers import TwoTowers
    from vlp.models.text.transformer import Transformer

    image = Timm(architecture="resnet10t", options={"in_chans": 3})
    config = TwoTowers(width=512, image=image, image_size=32, text=Transformer(hidden=512, layers=12, heads=8))
    torch.manual_seed(0)
    tokenizer = config.tokenizer(texts)
    encoder = config.build(tokenizer.vocab).eval()
    release.save(folder, config=config, encoder=encoder, tokenizer=tokenizer, notes={})
    return str(folder)


def fresh_index(model: str, name: str) -> Path:
    """An index of the bundled corpus."""
    from eval.index.flat import Flat
    from eval.search.build import build_gallery
    from vlp.models import release

    return build_gallery(release.load(model), SPLITS, WORK / name / "index", kind=Flat()).folder


def rows(quick: bool, *, model: Path = Path("runs/demo/model"), threads: int = 2) -> Iterator[dict[str, Any]]:
    """All rows; `quick`: seconds instead of minutes."""
    shutil.rmtree(WORK, ignore_errors=True)
    rounds, seconds = (2, 4.0) if quick else (5, 12.0)
    small = demo_model(model)
    index = fresh_index(small, "small")
    large = clip_sized(questions(index), WORK / "large" / "model")
    yield from load(fresh_index(large, "large"), large, "serve.", rounds=rounds, seconds=seconds, threads=threads)
    yield from load(index, small, "serve.small_", rounds=rounds, seconds=seconds, threads=threads)
    yield from attacked(index, small, kills=3 if quick else KILLS, seconds=20 if quick else 60, threads=threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", type=Path, default=Path("runs/demo/model"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    made = list(rows(options.quick, model=options.model, threads=options.threads))
    about = record.conditions(
        ("torch", "faiss-cpu", "fastapi", "uvicorn", "uvloop", "httptools"), threads=options.threads
    )
    record.write(
        options.json, {**about, "clients": CLIENTS, "load": [round(load, 2), round(os.getloadavg()[0], 2)]}, made
    )


if __name__ == "__main__":
    main()
