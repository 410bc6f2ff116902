"""What a vector costs in an index: measured on this machine by `vlp plan index --measure`, or read from a file."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.index import Index
from eval.search.parts import BLOCK
from vlp.config import build, component
from vlp.config.bounds import Positive
from vlp.errors import UserError
from vlp.files import write_whole

KNOWN = Path(__file__).with_name("plan_index.toml")
WIDTH, COUNT, GRAPH = 512, 40_000, 10_000  # of the vectors measured with, and how many of them go into a graph
CELLS, FEW = 512, 32
LEARNED = 8192  # vectors that cells are learned from
CODED = ("flat", "ivf", "ivf_sq8", "ivf_pq", "opq", "rabitq")


@dataclass(frozen=True)
class Costs:
    """Costs of one core; seconds are of CPU time."""

    conditions: str
    """where and how they were measured"""
    flops: Positive
    """operations a second of comparing vectors with the centres of cells"""
    graph: Positive
    """seconds a vector, dimension and log2 of the number of vectors, in a graph of 32 links and effort 200"""
    insert: Positive
    """seconds a vector and dimension, sent to Milvus by pymilvus"""
    encode: dict[str, float]
    """seconds a vector and dimension, by kind: its code, and putting it in place"""


def known_costs(path: Path | None = None) -> Costs:
    """The costs in a file; None: those that come along. Raises UserError if it is no such file."""
    path = path or KNOWN
    if not path.is_file():
        raise UserError(f"there is no file of costs {path}; make one with: vlp plan index --measure FILE")
    try:
        costs = build(Costs, tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    missing = [name for name in CODED if name not in costs.encode]
    if missing:
        raise UserError(f'{path} lacks the cost "encode.{missing[0]}"; make it with: vlp plan index --measure FILE')
    return costs


def toml(costs: Costs) -> str:
    """The same as a file."""
    import tomli_w

    head = "# Costs of a vector in an index, of one core: `vlp plan index --measure FILE` makes them again.\n\n"
    rounded = {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in asdict(costs).items()}
    rounded["encode"] = {k: float(f"{v:.3g}") for k, v in costs.encode.items()}
    return head + tomli_w.dumps(rounded)


def measure(path: Path) -> None:
    """Measure in a program of its own, on one thread, and write the costs to `path`. Raises UserError if it fails."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run([sys.executable, "-m", "eval.measure_index", str(path)], env=os.environ | one, check=False)
    if done.returncode:
        raise UserError("the costs of an index could not be measured; the reason is above")


def measured(count: int = COUNT, width: int = WIDTH) -> Costs:
    """Costs on this machine, with the threads that FAISS has; Milvus by Milvus Lite."""
    vectors = clustered(count, width)
    graph = vectors[: min(count, GRAPH)]
    adding = {cells: _seconds_to_add("ivf", vectors, cells) for cells in (FEW, CELLS)}
    flops = 2.0 * width * (CELLS - FEW) * count / max(1e-9, adding[CELLS] - adding[FEW])
    compared = 2.0 * width * FEW * count / flops
    times = {name: adding[FEW] if name == "ivf" else _seconds_to_add(name, vectors, FEW) for name in CODED}
    encode = {name: max(1e-12, (s - compared * (name != "flat")) / (count * width)) for name, s in times.items()}
    rest = f"{count:,} clustered vectors of width {width}, {CELLS} cells; FAISS {version('faiss-cpu')}"
    return Costs(
        conditions=f"one core of {_processor()}; {rest}; Milvus Lite {version('milvus-lite')}",
        flops=flops,
        graph=_seconds_to_add("hnsw", graph, 0) / (len(graph) * width * math.log2(len(graph))),
        insert=_seconds_to_insert(graph) / (len(graph) * width),
        encode=encode,
    )


def _seconds_to_add(name: str, vectors: NDArray[np.float32], cells: int) -> float:
    kind: Index = component(Index, name)()
    settings = {"cells": cells, "pieces": vectors.shape[1] // 4}
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    kind = replace(kind, **{key: value for key, value in settings.items() if key in known})  # type: ignore[type-var]
    made = kind.empty(vectors.shape[1])
    made.train(vectors[:LEARNED])
    begun = time.process_time()
    for start in range(0, len(vectors), BLOCK):
        some = vectors[start : start + BLOCK]
        made.add(some, np.arange(start, start + len(some)), new=True)
    return time.process_time() - begun


def _seconds_to_insert(vectors: NDArray[np.float32]) -> float:
    """Through pymilvus, without a graph. Raises UserError if it is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        kind = component(Index, "milvus")(index="FLAT", uri=str(Path(folder) / "costs.db"))
        made = kind.empty(vectors.shape[1])
        begun = time.process_time()
        made.add(vectors, np.arange(len(vectors)))
        return time.process_time() - begun


def _processor() -> str:
    """The name of the CPU, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def clustered(count: int, width: int) -> NDArray[np.float32]:
    """Unit vectors [N, D] around one centre for every 64 of them."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, count // 64), width), np.float32)
    made = centres[rng.integers(0, len(centres), count)] + 0.5 * rng.standard_normal((count, width), np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


if __name__ == "__main__":
    write_whole(Path(sys.argv[1]), toml(measured()))
