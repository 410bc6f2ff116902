"""Building and searching indexes, against autofaiss at the same limit of memory.

    python -m benchmarks.search --json benchmarks/results/search.json

Vectors and queries are those of `benchmarks.search_vectors`. `vlp index build` chooses within the limit (1 KB a vector)
for recall@10 0.95, asked by every other caption; autofaiss chooses within the same limit. Then both are searched
in turn, in one process, by the same FAISS with the same threads, for the 10 best of each of the other captions.

`*.qps` is queries a second, `*.recall` recall@10 against exact search for these queries, `*.qps_at_recall` the same
rate beside the least effort at which autofaiss's index reaches 0.95 or, where it never does, its best less 0.01.
`*.build_time` is the whole command, ours with reading the store and writing rows, `*.build_cpu` its CPU time.
`*.memory` is the index in memory when it is searched. `*.build_memory` is the most anonymous memory of the building
process (pages of mapped files, which the system takes back when it needs them, are not in it), less what the same
program takes for 2,000 vectors, in multiples of the finished index and one block of vectors.
`open.time` is a fresh process from before `import vlp` to the answer to a first text, `open.index` without imports and
model. Other cases come from `benchmarks/search_*.py`, each with its `rows`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record, search_sides, search_vectors

ROOT = Path(__file__).resolve().parents[1]
K, WANTED, BYTES_EACH, BLOCK_BYTES = 10, 0.95, 1000, 16384 * 512 * 4
SIZES = {"million": 1_000_000, "small": 200_000}
QUICK = {"million": 8_000, "small": 4_000}
OTHERS = ("filter", "asking", "embed", "serve")
NEAR = 0.01  # of the best recall of autofaiss's index, where that is below 0.95
Row = dict[str, Any]
OPENED = """
import json, sys, time
begin = time.perf_counter()
import vlp
index = vlp.open_index(sys.argv[1])
index.search("a red apple", k=10)
whole = time.perf_counter() - begin
begin = time.perf_counter()
again = vlp.open_index(sys.argv[1])
again.gallery.search(index.model, index.model.embed_texts("a green tree").numpy(), 10)
print(json.dumps([whole, time.perf_counter() - begin]))
"""


class Pair:
    """Our index and, unless `alone`, autofaiss's of the same vectors, built if need be."""

    def __init__(self, name: str, count: int, threads: int, alone: bool = False) -> None:
        self.name, self.count, self.threads, self.alone = name, count, threads, alone
        folder = search_vectors.KEPT / "built"
        self.index, self.other = folder / f"ours-{count}", folder / f"autofaiss-{count}"
        self.built: list[search_sides.Built] = []

    def build(self) -> None:
        """Build both; what an earlier call built is replaced."""
        self.built = self._built(self.count, self.index, self.other)

    def programs(self) -> list[float]:
        """Bytes that each side's program takes for few vectors."""
        folder = search_vectors.KEPT / "built"
        few = self._built(search_sides.FEW, folder / "ours-few", folder / "autofaiss-few")
        return [one.anonymous for one in few]

    def _built(self, count: int, index: Path, other: Path) -> list[search_sides.Built]:
        search_sides.store(count)
        limit = BYTES_EACH * float(count) * (4 if count == search_sides.FEW else 1)
        sides = ((search_sides.ours, index), (search_sides.peer, other))
        return [build(count, limit, self.threads, out) for build, out in sides[: 1 if self.alone else 2]]

    def ensure(self) -> None:
        """Build what is not there."""
        there = (self.index / "index.toml").is_file(), self.alone or (self.other / "infos.json").is_file()
        if not all(there):
            self.build()


def build_rows(pair: Pair) -> Iterator[Row]:
    """`NAME.build_time`, `NAME.build_cpu`, `NAME.memory` and `NAME.build_memory`."""
    pair.build()
    files = [file_of(pair), *([] if pair.alone else [pair.other / "knn.index"])]
    sizes = [file.stat().st_size for file in files]
    peer = "" if pair.alone else f"{search_sides.PEER} {search_sides.infos(pair.other)['index_key']}"

    def both(case: str, unit: str, values: Sequence[float]) -> Row:
        return record.row(f"{pair.name}.{case}", unit, values[:1], values[1:], peer)

    yield both("build_time", "s", [one.seconds for one in pair.built])
    yield both("build_cpu", "CPU s", [one.cpu_seconds for one in pair.built])
    yield both("memory", "MB", [size / 1e6 for size in sizes])
    most = [one.anonymous - own for one, own in zip(pair.built, pair.programs(), strict=True)]
    shares = [some / (size + BLOCK_BYTES) for some, size in zip(most, sizes, strict=True)]
    yield both("build_memory", "x (index + block)", shares)


def file_of(pair: Pair) -> Path:
    """FAISS's file of our index."""
    from eval.search.versions import Version

    return Version.current(pair.index).files / "index.faiss"


def search_rows(pair: Pair, rounds: int) -> Iterator[Row]:
    """`NAME.qps`, `NAME.recall` and, where autofaiss's index can, `NAME.qps_at_recall`."""
    import faiss

    from eval.search.gallery import Gallery
    from eval.search.recall import exact, overlap

    pair.ensure()
    faiss.omp_set_num_threads(pair.threads)
    pictures, texts = search_vectors.vectors(pair.count)
    queries = np.ascontiguousarray(texts[1::2])
    truth = exact(pictures, np.arange(pair.count), queries)
    ours = Gallery.open(pair.index, mapped=False).vectors

    def by_us() -> Any:
        return ours.search(queries, K).ids

    if pair.alone:
        yield record.row(f"{pair.name}.recall", "recall@10", [overlap(by_us(), truth)])
        yield record.row(f"{pair.name}.qps", "queries/s", *record.in_turn([by_us], len(queries), rounds))
        return
    about, theirs = search_sides.infos(pair.other), faiss.read_index(str(pair.other / "knn.index"))
    space = faiss.ParameterSpace()
    space.set_index_parameters(theirs, about["index_param"])

    def by_them() -> Any:
        return theirs.search(queries, K)[1]

    peer = f"{search_sides.PEER} {about['index_key']} {about['index_param']}"
    yield record.row(f"{pair.name}.recall", "recall@10", [overlap(by_us(), truth)], [overlap(by_them(), truth)], peer)
    yield record.row(f"{pair.name}.qps", "queries/s", *record.in_turn([by_us, by_them], len(queries), rounds), peer)
    wanted = min(WANTED, overlap(by_them(), truth) - NEAR)
    setting = reaching(theirs, space, lambda: overlap(by_them(), truth), wanted)
    if setting:
        rates = record.in_turn([by_us, by_them], len(queries), rounds)
        peer = f"{search_sides.PEER} {about['index_key']} {setting}: recall {overlap(by_them(), truth):.3f}"
        yield record.row(f"{pair.name}.qps_at_recall", "queries/s", *rates, peer)


def reaching(index: Any, space: Any, recall: Callable[[], float], wanted: float) -> str:
    """The least number of cells, or effort of the walk, at which an index reaches a recall; "" where none does."""
    import faiss

    knob = "efSearch" if isinstance(faiss.downcast_index(index), faiss.IndexHNSW) else "nprobe"
    for effort in (2**n for n in range(3, 13)):
        setting = f"{knob}={effort}" + (f",quantizer_efSearch={2 * effort}" if knob == "nprobe" else "")
        try:
            space.set_index_parameters(index, setting)
        except RuntimeError:  # its cells are no graph
            setting = f"{knob}={effort}"
            space.set_index_parameters(index, setting)
        if recall() >= wanted:
            return setting
    return ""


def open_rows(pair: Pair, rounds: int) -> Iterator[Row]:
    """`open.time` and `open.index`."""
    pair.ensure()
    env = {**os.environ, "OMP_NUM_THREADS": str(pair.threads), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OPENED, str(pair.index)]
    times = [json.loads(subprocess.check_output(command, env=env, cwd=ROOT, text=True)) for _ in range(rounds)]
    yield record.row("open.time", "s", [one[0] for one in times])
    yield record.row("open.index", "s", [one[1] for one in times])


def other_rows(name: str, quick: bool) -> Iterator[Row]:
    """The rows of `benchmarks/search_NAME.py`, where it is there."""
    module = f"benchmarks.search_{name}"
    if importlib.util.find_spec(module) is not None:
        yield from importlib.import_module(module).rows(quick)


def cases(options: argparse.Namespace) -> dict[str, Callable[[], Iterator[Row]]]:
    """What each case measures; one that stands twice is measured once."""
    sizes = QUICK if options.quick else SIZES
    rounds = 1 if options.quick else options.rounds
    million, small = (Pair(name, count, options.threads, options.alone) for name, count in sizes.items())

    def pair(one: Pair) -> dict[str, Callable[[], Iterator[Row]]]:
        return {f"{one.name}.build": lambda: build_rows(one), f"{one.name}.search": lambda: search_rows(one, rounds)}

    others = {f"{name}.": (lambda name=name: other_rows(name, options.quick)) for name in OTHERS}
    return {**pair(million), "open.": lambda: open_rows(million, rounds), **pair(small), **others}


BUILDING, SEARCHING = ("build_time", "build_cpu", "memory", "build_memory"), ("qps", "recall", "qps_at_recall")
PREFIXES = {"build": BUILDING, "search": SEARCHING}


def asked(group: str, only: Sequence[str]) -> bool:
    """Whether a group of cases has one that is asked for.

    >>> asked("million.build", ["million.memory"]), asked("million.build", ["million.qps"]), asked("open.", [])
    (True, False, True)
    """
    name, _, kind = group.partition(".")
    own = [f"{name}.{case}" for case in PREFIXES.get(kind, ())]
    return not only or any(case in own or (not own and case.startswith(name)) for case in only)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE", help="such as million.qps open.time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--alone", action="store_true", help="without autofaiss, which trains much longer")
    parser.add_argument("--quick", action="store_true", help="few vectors and one round")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    rows = [row for group, measure in cases(options).items() if asked(group, options.only) for row in measure()]
    about = record.conditions(("faiss-cpu", "numpy", "torch"), threads=options.threads)
    about["data"] = [search_vectors.conditions(count) for count in (QUICK if options.quick else SIZES).values()]
    record.write(options.json, {**about, "load": [round(load, 2), round(os.getloadavg()[0], 2)]}, rows)


if __name__ == "__main__":
    main()
