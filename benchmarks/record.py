"""The form all benchmarks speak: rows with ratio ours / peer and its spread, under stated conditions."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vlp.record import versions


def row(
    case: str, unit: str, ours: Sequence[float], peer: Sequence[float] = (), peer_name: str | None = None
) -> dict[str, Any]:
    """One case: medians, the median of the ratios pair by pair (where the peer is not 0), their least and largest."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True) if b] if peer else []
    return {
        "case": case,
        "unit": unit,
        "ours": statistics.median(ours),
        "peer": statistics.median(peer) if peer else None,
        "ratio": statistics.median(ratios) if ratios else None,
        "ratio_min": min(ratios) if ratios else None,
        "ratio_max": max(ratios) if ratios else None,
        "peer_name": peer_name if peer else None,
    }


def conditions(packages: Sequence[str], *, threads: int) -> dict[str, Any]:
    """The machine, the threads, the versions, the command and the day."""
    model = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
    )
    program = Path(sys.argv[0])
    name = program.parent.name if program.stem == "__main__" else program.stem
    return {
        "machine": f"{platform.machine()} {model}".strip(),
        "threads": threads,
        "versions": versions(packages),
        "command": "python -m " + " ".join([f"benchmarks.{name}", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    number = lambda v: "" if v is None else f"{v:,.4g}" if abs(v) < 1000 else f"{v:,.0f}"  # noqa: E731
    lines = ["| case | unit | ours | peer | ours / peer | spread | peer is |", "|---|---|---:|---:|---:|---:|---|"]
    for r in rows:
        spread = "" if r["ratio"] is None else f"{r['ratio_min']:.3f} to {r['ratio_max']:.3f}"
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.3f}"
        cells = (f"`{r['case']}`", r["unit"], number(r["ours"]), number(r["peer"]), ratio, spread, r["peer_name"] or "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(path: Path | None, about: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Prints the table, and writes conditions and rows to `path` as JSON."""
    print(table(rows))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"conditions": about, "rows": list(rows)}, indent=1) + "\n")


def in_turn(sides: Sequence[Callable[[], Any]], count: int, rounds: int) -> list[list[float]]:
    """Things a second of each side, which does `count` at a call; they are called in turn, the first round warms up."""
    rates: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds + 1):
        for side, own in zip(sides, rates, strict=True):
            begin = time.perf_counter()
            side()
            if turn:
                own.append(count / (time.perf_counter() - begin))
    return rates


def main_of_faiss(doc: str | None, rows: Callable[[bool, int], Iterable[dict[str, Any]]], package: str) -> None:
    """The program of a benchmark whose rows come from `rows(quick, rounds)`, on FAISS's threads."""
    import faiss

    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="few vectors and one round")
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.threads)
    about = conditions(("faiss-cpu", "numpy", package), threads=options.threads)
    write(options.json, about, list(rows(options.quick, options.rounds)))
