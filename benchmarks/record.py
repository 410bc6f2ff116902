"""The form all benchmarks speak: rows with ratio ours / peer and its spread, under stated conditions."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import sys
from collections.abc import Sequence
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
