"""Reports of many models as one table, a row a model: for a paper, a sheet or a program."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from eval.report.comparison import Evaluated, refuse_unlike
from eval.report.units import UNITS
from vlp.errors import UserError

Tree = dict[str, Any]


def gathered(models: Sequence[Evaluated], patterns: Sequence[str] = (), *, average: bool = False) -> Tree:
    """metrics: their names; units; rows: for each model its name, weights and values, None where it has not measured.

    `patterns`: which metrics, none means all; `average`: a last column, the mean of them. Raises UserError for models
    that were measured on other data or by another protocol, and for metrics that cannot be averaged.
    """
    if not models:
        raise UserError("name the evaluations to gather: what `vlp eval ... --out FOLDER` wrote")
    refuse_unlike(models)
    every = list(dict.fromkeys(name for model in models for name in model.metrics))
    names = [name for name in every if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not names:
        raise UserError(f"no metric is called {', '.join(patterns)}; there are: {', '.join(every[:20])}")
    units = {name: next(m.tree["units"][name] for m in models if name in m.metrics) for name in names}
    rows = [
        {
            "model": model.label,
            "name": model.tree["model"]["name"],
            "weights_sha256": model.tree["model"]["weights_sha256"],
            "values": [model.metrics.get(name) for name in names],
        }
        for model in models
    ]
    if average:
        _refuse_average(models, names)
        for row in rows:
            row["values"].append(round(sum(row["values"]) / len(names), 6))
        units["mean"] = units[names[0]]
        names = [*names, "mean"]
    return {"metrics": names, "units": units, "rows": rows}


def _refuse_average(models: Sequence[Evaluated], names: Sequence[str]) -> None:
    """Raise UserError for metrics whose mean would mean nothing."""
    for model in models:
        lacking = [name for name in names if name not in model.metrics]
        if lacking:
            raise UserError(f"no average: {model.label} has not measured {lacking[0]}, which others have")
    for key, what in (("measures", "measure"), ("units", "unit"), ("better", "better side")):
        kinds = {model.tree[key][name]: name for model in models for name in names}
        if len(kinds) > 1:
            (one, first), (two, second) = list(kinds.items())[:2]
            raise UserError(
                f"no average: {first} and {second} have another {what} ({one}, {two}); choose with --metrics what "
                'belongs together, such as --metrics "*/acc1"'
            )


def written(table: Tree, form: Literal["markdown", "csv", "json"]) -> str:
    """The table as text."""
    if form == "json":
        return json.dumps(table, indent=1, ensure_ascii=False) + "\n"
    head = ["model", *table["metrics"]]
    if form == "csv":
        file = io.StringIO()
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(head)
        lines.writerows([row["model"], *("" if v is None else v for v in row["values"])] for row in table["rows"])
        return file.getvalue()
    shown = [UNITS[table["units"][name]].plain for name in table["metrics"]]
    cells = [head, ["---", *["---:"] * len(shown)]]
    for row in table["rows"]:
        cells.append([row["model"], *("" if v is None else f(v) for f, v in zip(shown, row["values"], strict=True))])
    return "".join(f"| {' | '.join(text.replace('|', '/') for text in line)} |\n" for line in cells)
