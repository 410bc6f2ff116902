"""The demo's training on one process and on four gloo ranks (a 2 x 2 grid): is it the same training?

    python -m benchmarks.ranks [--json OUT] [--steps 100]

Everything of preset `demo` takes part, at 48 px: its augmentation, batch norms, multi-positive loss, Muon. In
float64, where rounding is too small to decide which side of a ReLU a number falls, and in float32, as one would train.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record

ROOT = Path(__file__).resolve().parents[1]
BATCH = 512
SMALL = ("--model.image-size", "48", "--augment.size", "48")
SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def losses(out: Path, ranks: int, precision: str, steps: int) -> list[float]:
    """The loss of each step of preset `demo` on `ranks` processes with one thread each."""
    torchrun = (str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", str(ranks))
    launcher = (sys.executable,) if ranks == 1 else torchrun
    flags = ("--training.samples", str(steps * BATCH), "--training.precision", precision, "--training.log-every", "1")
    grid = () if ranks == 1 else ("--training.negatives", "grid:2x2")
    command = (*launcher, "train.py", "demo", "--out", str(out), "--training.no-tensorboard", *SMALL, *flags, *grid)
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def compare(precision: str, steps: int, folder: Path) -> list[dict[str, Any]]:
    """A row per shown step, and one for the largest relative difference of all steps."""
    one = losses(folder / f"{precision}-1", 1, precision, steps)
    four = losses(folder / f"{precision}-4", 4, precision, steps)
    apart = [abs(a - b) / a for a, b in zip(one, four, strict=True)]
    shown = sorted({step for step in SHOWN if step <= steps} | {steps})
    rows = [
        {**record.row(f"{precision}.step{step}", "loss", [four[step - 1]], [one[step - 1]], "one process")}
        | {"difference": apart[step - 1]}
        for step in shown
    ]
    largest = record.row(f"{precision}.largest_difference", "relative", [max(apart)])
    return [*rows, {**largest, "difference": max(apart)}]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table, with as many digits as the comparison needs."""
    lines = ["| case | 4 ranks, 2 x 2 | 1 process | relative difference |", "|---|---:|---:|---:|"]
    for r in rows:
        values = ("", "") if r["peer"] is None else (f"{r['ours']:.15g}", f"{r['peer']:.15g}")
        lines.append(f"| `{r['case']}` | {values[0]} | {values[1]} | {r['difference']:.1e} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [r for p in ("fp64", "fp32") for r in compare(p, options.steps, Path(folder))]
    print(table(rows))
    record.write(options.json, record.conditions(("torch", "accelerate"), threads=1), rows)


if __name__ == "__main__":
    main()
