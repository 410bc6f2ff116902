"""`vlp plan index`: memory, disk and hours of an index of any size, for each kind, before anyone pays for it.

Sizes are the kinds' own formulas; times are costs a vector that were measured (plan_index.toml; `--measure` makes them
again) times how many there are. What recall it will have is not planned: `vlp index build --recall` measures that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval.index import Index
from eval.index._centres import ROUNDS
from eval.measure_index import Costs, known_costs, measure
from vlp.config import component, component_name
from vlp.config.bounds import Count, Positive, check
from vlp.errors import UserError

KINDS = ("flat", "hnsw", "ivf", "ivf_sq8", "ivf_pq", "opq", "rabitq", "milvus")
ON_DISK = "ivf_sq8"  # the kind that is planned as one that lies on the disk, too
SEGMENT = 1 << 30  # bytes of vectors of which Milvus builds one graph
FORMULAS = """
memory    to search: vectors x bytes a vector + cells x 4 width; on disk: of the
          cells' centres alone, lists are read as they are asked
disk      the index + vectors x (4 width + --row): vectors.npy and rows.parquet
          stay beside it, for removing, compacting and exact scores
machines  that search: an index of FAISS is in one, so it fits into --memory or
          is too big; milvus: memory / --memory, without what it needs itself
build     training + vectors x (2 width cells / flops + encoding) / (ranks x
          cores) + 2 x index / --write; training: 10 x sample x 2 width cells
          hnsw: vectors x width x log2 vectors x a cost on one rank: graphs
          cannot be merged; milvus: as many machines as ranks make a graph of
          each GiB of vectors, and a core of each rank sends them
""".strip()


@dataclass(frozen=True, kw_only=True)
class PlanIndex:
    """Memory, disk and build time of an index for each kind, from measured costs."""

    vectors: tuple[Positive, ...] = (1e7, 1e9, 5e9)
    """How many vectors; several are several tables."""
    width: Count = 512
    """Width of the vectors."""
    ranks: tuple[Count, ...] = (1, 8, 64)
    """Ranks that build: for how many the time is shown."""
    cores: Count = 16
    """CPU cores of a rank."""
    memory: Positive = 512.0
    """GB of memory of a machine that searches."""
    write: Positive = 1.0
    """GB/s that one rank reads and writes of the storage."""
    row: Positive = 100.0
    """Bytes of a row in rows.parquet: an index you have tells; about 1,000 more with pictures of 96 pixels."""
    json: bool = False
    """Print JSON."""
    measure: Path | None = None
    """Measure the costs on this machine, write them to this file, and plan with them."""
    costs: Path | None = None
    """A file of costs that --measure wrote; left out: those that come along."""


@dataclass(frozen=True)
class Row:
    """One kind at one size."""

    kind: str
    settings: dict[str, Any]
    memory: float  # bytes to search it, of all machines together
    disk: float  # bytes
    machines: int  # that search it together; 0: it does not fit into one, and FAISS's are in one
    build_s: dict[int, float]  # by ranks


def kind_for(name: str, count: float, width: int) -> Index:
    """The kind as it would be built for so many vectors: the smallest of what it says is worth measuring."""
    kind: Index = component(Index, name)()
    return min(kind.choices(int(count), width) or [kind], key=lambda one: one.size(int(count), width))


def rows(plan: PlanIndex, count: float, costs: Costs) -> list[Row]:
    """Every kind for so many vectors."""
    made = []
    for name in KINDS:
        kind = kind_for(name, count, plan.width)
        size = kind.size(int(count), plan.width)
        disk = size + count * (4 * plan.width + plan.row)
        built = {ranks: build_seconds(kind, count, plan, costs, ranks=ranks) for ranks in plan.ranks}
        row = Row(name, settings_of(kind), size, disk, machines(name, size, plan), built)
        made.append(row)
        if name == ON_DISK:
            centres = size - count * kind.bytes_each(plan.width)
            made.append(replace(row, kind=f"{name}, on disk", memory=centres, machines=machines(name, centres, plan)))
    return made


def settings_of(kind: Index) -> dict[str, Any]:
    """What is worth saying of a kind's settings."""
    named = ("cells", "pieces", "better", "links")
    return {key: value for key, value in asdict(kind).items() if key in named and hasattr(kind, key)}  # type: ignore[call-overload]


def machines(name: str, size: float, plan: PlanIndex) -> int:
    """Machines whose memory holds so many bytes together; 0 where it takes several and the kind cannot be split."""
    wanted = max(1, math.ceil(size / (plan.memory * 1e9)))
    return wanted if wanted == 1 or name == "milvus" else 0


def build_seconds(kind: Index, count: float, plan: PlanIndex, costs: Costs, *, ranks: int) -> float:
    """Seconds to build it from vectors that are embedded already, by so many ranks."""
    name, width, workers = component_name(kind, Index), plan.width, ranks * plan.cores
    moved = 2 * kind.size(int(count), width) / (plan.write * 1e9)
    if name == "hnsw":
        return count * width * math.log2(count) * costs.graph / plan.cores + moved
    if name == "milvus":
        segment = min(count, SEGMENT / (4 * width))
        graphs = count * width * math.log2(max(2, segment)) * costs.graph / workers
        return graphs + count * width * costs.insert / ranks
    cells = kind.number_of_cells()
    sample = min(count, kind.sample_to_train())
    training = ROUNDS * sample * 2 * width * cells / costs.flops / plan.cores
    each = 2 * width * cells / costs.flops + width * costs.encode[name]
    return training + count * each / workers + moved


def size_in_words(size: float) -> str:
    """Bytes for a table.

    >>> size_in_words(2.08e13), size_in_words(640e6)
    ('20.8 TB', '640 MB')
    """
    for unit, bytes_of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_of:
            return f"{size / bytes_of:.3g} {unit}" if size < 1000 * bytes_of else f"{size / bytes_of:,.0f} {unit}"
    return f"{size:.0f} B"


def time_in_words(seconds: float) -> str:
    """Seconds for a table.

    >>> time_in_words(90), time_in_words(7200), time_in_words(5e6)
    ('1.5 min', '2 h', '57.9 d')
    """
    for unit, long in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= (2 if unit == "d" else 1) * long:
            return f"{seconds / long:,.0f} {unit}" if seconds >= 100 * long else f"{seconds / long:.3g} {unit}"
    return f"{seconds:.0f} s"


def table(plan: PlanIndex, count: float, made: Sequence[Row]) -> str:
    """The rows as text, at most 80 characters wide for three numbers of ranks."""
    head = ("kind", "memory", "disk", "machines", *(f"{n:,} rank{'s' * (n > 1)}" for n in plan.ranks))
    body = [
        (
            row.kind,
            size_in_words(row.memory),
            size_in_words(row.disk),
            f"{row.machines:,}" if row.machines else "too big",
            *(time_in_words(row.build_s[n]) for n in plan.ranks),
        )
        for row in made
    ]
    widths = [max(len(line[k]) for line in (head, *body)) for k in range(len(head))]
    lines = [
        "  ".join(text.rjust(w) if k else text.ljust(w) for k, (text, w) in enumerate(zip(line, widths, strict=True)))
        for line in (head, *body)
    ]
    cells = next((row.settings["cells"] for row in made if "cells" in row.settings), 0)
    title = f"{count:,.0f} vectors of width {plan.width}, {cells:,} cells; build with {plan.cores} cores a rank"
    return "\n".join([title, "", *lines, ""])


def main(argv: Sequence[str]) -> int:
    """The command `vlp plan index`."""
    import tyro

    plan = tyro.cli(PlanIndex, args=list(argv), prog="vlp plan index")
    check(plan)
    if any(count < 2 or not math.isfinite(count) for count in plan.vectors) or not plan.vectors:
        raise UserError(f"--vectors is {plan.vectors}, but each should be a number of vectors, 2 or more: 1e9")
    if plan.measure is not None:
        measure(plan.measure)
    costs = known_costs(plan.measure or plan.costs)
    planned = {count: rows(plan, count, costs) for count in plan.vectors}
    if plan.json:
        listed = {f"{count:.0f}": [asdict(row) for row in made] for count, made in planned.items()}
        print(json.dumps({"width": plan.width, "cores": plan.cores, "costs": asdict(costs), "plans": listed}, indent=1))
        return 0
    for count, made in planned.items():
        print(table(plan, count, made))
    print(FORMULAS)
    print(f"\ncosts: {costs.conditions}")
    print("recall is not planned: `vlp index build --memory ... --recall ...` measures it on your vectors")
    return 0
