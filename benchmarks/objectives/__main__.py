"""Which objectives, samplers and teachers pay beside preset `demo`: a screen of all, a race of the best, a report.

python -m benchmarks.objectives --jobs 2 --json benchmarks/results/objectives.json       all; what is done is kept
python -m benchmarks.objectives --stage screen --only cyclip macl                    some recipes, one seed each
python -m benchmarks.objectives --quick                                              tiny runs of everything

Runs are real processes of train.py with one thread each, below .bench/objectives; one that is finished is not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.objectives import cases, pictures, stages, tables
from benchmarks.objectives.recipes import DEMO, LEFT_OUT, PLAIN, RECIPES
from benchmarks.objectives.runs import WORK
from vlp.config import run_main
from vlp.lock import locked

STAGES = ("screen", "race", "report", "cases")
Row = dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """Run what is asked for, print its tables, write its record."""
    options = parsed(argv)
    only = options.only or [*RECIPES, *cases.CASES]
    recipes = {name: recipe for name, recipe in RECIPES.items() if name in (DEMO, PLAIN, *only)}
    sizes = stages.QUICK if options.quick else stages.Sizes()
    if options.pairs:
        sizes = replace(sizes, **dict(zip(("screen", "race", "report"), options.pairs, strict=True)))
    with locked(options.work):
        bench = stages.with_teacher(stages.Bench(sizes, options.jobs, recipes, options.work))
        rows = staged(bench, options.stage)
        if options.stage in ("cases", None):
            rows += cases.run(bench, [name for name in cases.CASES if name in only])
    about = {**record.conditions(("torch", "numpy"), threads=1), "jobs": options.jobs, "sizes": vars(sizes)}
    record.write(options.json, about | {"left_out": dict(LEFT_OUT)}, rows)
    texts = tables.of_stages(rows)
    for stage, text in texts.items():
        print(f"\n## {stage}\n\n{text}")
    for name, reason in LEFT_OUT.items():
        print(f"\nLeft out: {name}. {reason}")
    if options.docs:
        drawn = pictures.draw(rows, options.docs / "pictures")
        shown = "\n".join(f"![{what}](pictures/{path.name})" for path, what in drawn.items())
        tables.fill(options.docs / "objectives.md", {**texts, **({"pictures": shown} if shown else {})})
    return 0


def staged(bench: stages.Bench, last: str | None) -> list[Row]:
    """The rows of all stages up to `last`; a later one needs what an earlier one has chosen."""
    if last == "cases":
        return []
    rows, order = stages.screen(bench)
    screened = list(rows)
    if last != "screen":
        raced, order = stages.race(bench, order, screened)
        rows += raced
        if last != "race":
            rows += stages.report(bench, order)
    return rows


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.objectives", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--json", type=Path, help="where to write the record")
    parser.add_argument("--docs", type=Path, help="folder whose objectives.md and pictures are filled: docs")
    parser.add_argument("--stage", choices=STAGES, help="stop after this one; cases: these alone (default: everything)")
    parser.add_argument("--only", nargs="+", choices=[*RECIPES, *cases.CASES], metavar="RECIPE", help="these alone")
    parser.add_argument("--pairs", nargs=3, type=int, metavar="N", help="pairs of a run of screen, race and report")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the runs")
    parser.add_argument("--quick", action="store_true", help="tiny runs of everything, to see that it works")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_main(main, sys.argv[1:]))
