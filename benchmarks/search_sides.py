"""Building an index by each side, as a process whose time and memory are watched.

`ours` is `vlp index build` with limits, of a folder of embeddings in clip-retrieval's layout. The peer is autofaiss in
an environment of its own under `.bench/autofaiss`, given the same limit and left its choice.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import search_vectors

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".bench" / "autofaiss"
PEER = "autofaiss 2.18.0"
# FAISS: the newest whose constructors take the names that autofaiss calls. With numpy 2 its own numbers are none
# that it can write as JSON, and newer pyarrow and pandas take no older numpy.
BASICS = ("autofaiss==2.18.0", "faiss-cpu==1.12.0", "numpy==1.26.4", "pyarrow==17.0.0", "pandas==2.2.3")
FEW = 2000  # vectors of which a build shows what the program itself takes
PARTS = 16  # of a folder of embeddings
LOOKED_EVERY_S = 0.02
BUILD = """
import json, sys
from autofaiss import build_index
folder, out, memory, available, threads = sys.argv[1:]
build_index(embeddings=folder, index_path=out + "/knn.index", index_infos_path=out + "/infos.json", metric_type="ip",
            max_index_memory_usage=memory, current_memory_available=available, nb_cores=int(threads))
"""


@dataclass(frozen=True)
class Built:
    """What building took."""

    seconds: float
    cpu_seconds: float  # of all its threads and processes: what it costs beside other programs too
    anonymous: float  # most bytes of memory that are no pages of files


def peer_python() -> str:
    """The interpreter of autofaiss's environment, made if need be."""
    python = HOME / "bin" / "python"
    if not (HOME / "ready").exists():
        venv.create(HOME, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *BASICS], check=True)
        (HOME / "ready").touch()
    return str(python)


def store(count: int, dim: int = 512) -> Path:
    """A folder of embeddings of these vectors, as `vlp embed` and clip-retrieval lay them out; captions are queries."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = search_vectors.KEPT / f"store-{count}x{dim}"
    if (folder / "ready").is_file():
        return folder
    pictures, _ = search_vectors.vectors(count, dim)
    texts = search_vectors.texts_of(dim)[::2]  # every other one is asked by the benchmark
    bounds = np.linspace(0, count, PARTS + 1).astype(int)
    for kind in ("img_emb", "metadata"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for part, (start, stop) in enumerate(itertools.pairwise(bounds)):
        np.save(folder / "img_emb" / f"img_emb_{part:02d}.npy", pictures[start:stop])
        said = [texts[row % len(texts)] for row in range(start, stop)]
        rows = {"key": [f"{row:08d}" for row in range(start, stop)], "caption": said, "shard": [""] * len(said)}
        pq.write_table(pa.table(rows), folder / "metadata" / f"metadata_{part:02d}.parquet")
    (folder / "ready").touch()
    return folder


def ours(count: int, memory: float, threads: int, out: Path) -> Built:
    """Build by `vlp index build --memory`; `out` is the index."""
    limits = ("--memory", f"{memory / 1e6:.0f}MB", "--recall", "0.95")
    command = [sys.executable, "-m", "vlp.cli", "index", "build", str(search_vectors.model(512)), str(store(count))]
    return _watched([*command, str(out), *limits], threads)


def peer(count: int, memory: float, threads: int, out: Path) -> Built:
    """Build by autofaiss; `out` gets knn.index and infos.json."""
    out.mkdir(parents=True, exist_ok=True)
    sizes = (f"{memory:.0f}B", f"{max(8e9, 4 * memory):.0f}B", str(threads))
    return _watched([peer_python(), "-c", BUILD, str(store(count) / "img_emb"), str(out), *sizes], threads)


def infos(out: Path) -> dict[str, Any]:
    """What autofaiss says of its index: `index_key` and `index_param` among it."""
    return dict(json.loads((out / "infos.json").read_text(encoding="utf-8")))


def _watched(command: list[str], threads: int) -> Built:
    """Run a command and watch it. Raises RuntimeError, with what it said, if it fails."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    begin, most = time.perf_counter(), 0.0
    with (ROOT / ".bench" / "search-build.log").open("w+") as log:
        run = subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        while not (ended := os.wait4(run.pid, os.WNOHANG))[0]:
            most = max(most, anonymous(run.pid))
            time.sleep(LOOKED_EVERY_S)
        run.returncode = os.waitstatus_to_exitcode(ended[1])
        log.seek(0)
        if run.returncode:
            raise RuntimeError(f"{' '.join(command[:6])} ended with {run.returncode}: {log.read()[-2000:]}")
    return Built(time.perf_counter() - begin, ended[2].ru_utime + ended[2].ru_stime, most)


def anonymous(pid: int) -> float:
    """Bytes of memory that a process holds now and that are no pages of files; 0 for one that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(1024.0 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
