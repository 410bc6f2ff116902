"""compare.html: models side by side, one file, no network, for light and dark screens and for phones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.report.changed import Changed
from eval.report.units import UNITS
from vlp.legible import plain
from vlp.page import render
from vlp.page.chart import Series, line_chart

TEMPLATE = Path(__file__).parent / "compare_page.html"
MOST_CLASSES = 12  # in a table of confusions, and of differences each way
LEAST_PICTURES = 10  # of a bin of a reliability diagram that is drawn
NAME = 32  # characters of a class's name
Tree = dict[str, Any]
Bins = Sequence[Tree]
"""Of a reliability diagram: count, confidence and accuracy of each"""


def compare_page(
    tree: Tree,
    *,
    classified: Mapping[str, Tree],
    reliability: Mapping[str, Sequence[Bins]],
    changed: Sequence[Changed],
) -> str:
    """The page of a comparison (the tree of compare.json).

    classified: metric -> classes, labels and what each model predicted; reliability: metric -> the bins of each model;
    changed: queries that one model answers and another does not, with their pictures.
    """
    labels = [model["label"] for model in tree["models"]]
    return render(
        TEMPLATE,
        title=" against ".join([*labels[1:2], labels[0]]) if len(labels) == 2 else " · ".join(labels),
        tree=tree,
        labels=labels,
        verdicts=_verdicts(tree),
        splits=[_split(tree, split) for split in tree["data"]],
        explanations=list(dict.fromkeys(filter(None, (m["explanations"] for m in tree["metrics"].values())))),
        recalls=_recalls(tree, labels),
        least_pictures=LEAST_PICTURES,
        reliabilities=_reliabilities(tree, reliability, labels),
        classes=[_classes(_title(name, tree), about, labels) for name, about in classified.items()],
        changed=changed,
        conditions=_conditions(tree),
    )


def _verdicts(tree: Tree) -> list[Tree]:
    """How often each other model is better and worse than the first."""
    rows = []
    for other, model in enumerate(tree["models"][1:]):
        every = [metric["against_first"][other] for metric in tree["metrics"].values()]
        counts = {what: sum(row["verdict"] == what for row in every if row) for what in ("better", "worse", "")}
        rows.append({"label": model["label"], **counts, "open": counts[""], "of": sum(bool(row) for row in every)})
    return rows


def _split(tree: Tree, split: str) -> Tree:
    metrics = {name: metric for name, metric in tree["metrics"].items() if name.startswith(f"{split}/")}
    return {"name": split, **tree["data"][split], "rows": [_metric(metric) for metric in metrics.values()]}


def _metric(metric: Tree) -> Tree:
    """One metric: a bar a model where its unit has ends, and what is said of each against the first."""
    unit, cells = UNITS[metric["units"]], []
    for number, (value, (low, high)) in enumerate(zip(metric["values"], metric["intervals"], strict=True)):
        against = metric["against_first"][number - 1] if number else None
        cells.append(
            {
                "value": unit.plain(value),
                "interval": f"{unit.plain(low)} – {unit.plain(high)}",
                "bar": {"value": 100 * value, "low": 100 * low, "width": 100 * (high - low)} if unit.bounded else None,
                "against": _against(against, metric["units"]) if against else None,
            }
        )
    chance = metric["chance"]
    return {
        "label": ", ".join(metric["labels"]),
        "measure": metric["measures"],
        "lower_is_better": metric["better"] == "lower",
        "chance": 100 * chance if chance is not None and unit.bounded else None,
        "queries": metric["queries"],
        "cells": cells,
    }


def _against(row: Tree, unit: str) -> Tree:
    low, high = row["interval"]
    return {
        **row,
        "difference": signed(row["difference"], unit),
        "interval": f"{signed(low, unit)} to {signed(high, unit)}",
        "p": in_words(row["p_holm"]),
    }


def signed(value: float, unit: str) -> str:
    """A difference with its sign, on the scale of a page.

    >>> signed(0.0312, "share"), signed(-0.5, "score"), signed(0.0, "share")
    ('+3.1', '−0.5', '±0.0')
    """
    text = UNITS[unit].plain(abs(value))
    zero = not any(digit in text for digit in "123456789")
    return f"{'±' if zero else '+' if value > 0 else '−'}{text}"


def in_words(p: float) -> str:
    """A p as it is written.

    >>> in_words(0.0312), in_words(0.00001), in_words(1.0)
    ('p = .031', 'p < .001', 'p = 1')
    """
    if p < 0.001:
        return "p < .001"
    return "p = 1" if p > 0.9995 else f"p = {p:.3f}".replace("0.", ".", 1)


def _recalls(tree: Tree, labels: Sequence[str]) -> list[tuple[str, str]]:
    """(title, SVG) of recall over K, for each way that was measured at several K: a line a model."""
    ways: dict[tuple[str, str], list[tuple[int, Tree]]] = {}
    for name, metric in tree["metrics"].items():
        measure, _, k = metric["measures"].partition("@")
        if measure == "R" and k.isdecimal():
            ways.setdefault((name.split("/")[0], ", ".join(metric["labels"])), []).append((int(k), metric))
    charts = []
    for (split, label), some in ways.items():
        lines = [
            Series(model, [(k, 100 * metric["values"][number]) for k, metric in sorted(some, key=lambda pair: pair[0])])
            for number, model in enumerate(labels)
        ]
        charts.append((f"{split}: {label}", line_chart(lines, x_label="K", y_label="R@K, %")))
    return [(title, chart) for title, chart in charts if chart]


def _reliabilities(tree: Tree, metrics: Mapping[str, Sequence[Bins]], labels: Sequence[str]) -> list[tuple[str, str]]:
    """(title, SVG) of how often each model is right over how sure it is; the last line is a model that knows."""
    charts = []
    for name, each in metrics.items():
        lines = [
            Series(model, [(one["confidence"], one["accuracy"]) for one in bins if one["count"] >= LEAST_PICTURES])
            for model, bins in zip(labels, each, strict=True)
        ]
        lines.append(Series("as sure as it is right", [(0.0, 0.0), (1.0, 1.0)]))
        charts.append(
            (
                _title(name, tree),
                line_chart(lines, x_label="how sure it is (mean of the bin)", y_label="how often right"),
            )
        )
    return [(title, chart) for title, chart in charts if chart]


def _title(name: str, tree: Tree) -> str:
    """A metric in the words of its task, and its data."""
    return f"{', '.join(tree['metrics'][name]['labels'])}, on {name.split('/', maxsplit=1)[0]}"


def _classes(name: str, about: Tree, labels: Sequence[str]) -> Tree:
    """The classes on which the last model differs most from the first, and the confusions of both."""
    truth = np.array(about["labels"])
    predicted = [np.array(one) for one in about["predicted"]]
    count = np.bincount(truth, minlength=len(about["classes"]))
    share = [np.bincount(truth, one == truth, len(count)) / np.maximum(count, 1) for one in predicted]
    apart = share[-1] - share[0]
    order = [int(c) for c in np.lexsort((-count, -apart)) if count[c]]
    rows = [c for c in order[:MOST_CLASSES] if apart[c] > 0]
    rows += [c for c in order[-MOST_CLASSES:] if apart[c] < 0 and c not in rows]
    scale = max((abs(apart[c]) for c in rows), default=1.0)
    return {
        "name": name,
        "count": int((count > 0).sum()),
        "better": int((apart > 0).sum()),
        "worse": int((apart < 0).sum()),
        "first": labels[0],
        "last": labels[-1],
        "rows": [
            {
                "name": plain(about["classes"][c], NAME),
                "pictures": int(count[c]),
                "first": f"{100 * share[0][c]:.0f}",
                "last": f"{100 * share[-1][c]:.0f}",
                "apart": signed(float(apart[c]), "share"),
                "width": 50 * abs(apart[c]) / scale,
                "gain": bool(apart[c] > 0),
            }
            for c in rows
        ],
        **_confusions(about, truth, predicted, labels),
    }


def _confusions(about: Tree, truth: NDArray[Any], predicted: Sequence[NDArray[Any]], labels: Sequence[str]) -> Tree:
    """A table a model of what pictures of the classes that are mixed up most often were taken for."""
    chosen = _mixed_up(truth, predicted, len(about["classes"]))
    tables = []
    for model, one in zip(labels, predicted, strict=True):
        rows = []
        for c in chosen:
            own = one[truth == c]
            total = max(1, len(own))
            cells = [int((own == other).sum()) for other in chosen]
            rows.append({"cells": [(n, n / total) for n in cells], "rest": len(own) - sum(cells), "total": len(own)})
        tables.append({"label": model, "rows": rows})
    return {"confused": [plain(about["classes"][c], NAME) for c in chosen], "tables": tables}


def _mixed_up(truth: NDArray[Any], predicted: Sequence[NDArray[Any]], classes: int) -> list[int]:
    """The classes of the most frequent confusions, of all models together, in their order."""
    pairs = np.concatenate([truth[one != truth] * classes + one[one != truth] for one in predicted])
    kinds, counts = np.unique(pairs, return_counts=True)
    chosen: list[int] = []
    for kind in kinds[np.argsort(-counts, kind="stable")]:
        own = [c for c in divmod(int(kind), classes) if c not in chosen]
        if len(chosen) + len(own) > MOST_CLASSES:
            break
        chosen += own
    return sorted(chosen)


def _conditions(tree: Tree) -> list[tuple[str, list[str]]]:
    """(what, of each model) of everything a reader needs to measure the same again; one entry where all are equal."""
    rows = {
        "model": [m["model"]["name"] for m in tree["models"]],
        "weights, sha256": [m["model"]["weights_sha256"] for m in tree["models"]],
        "parameters": [f"{m['model']['parameters']:,}" for m in tree["models"]],
        "tokenizer": [", ".join(f"{k} {v}" for k, v in m["model"]["tokenizer"].items() if v) for m in tree["models"]],
        "pictures": [", ".join(f"{k} {v}" for k, v in m["model"]["preprocessing"].items()) for m in tree["models"]],
        "precision": [f"{m['model']['precision']} on {m['model']['device']}" for m in tree["models"]],
        "versions": [", ".join(f"{k} {v}" for k, v in m["versions"].items()) for m in tree["models"]],
        "machine": [f"{m['machine']['cpu']} {m['machine']['gpu']}".strip() for m in tree["models"]],
        "evaluated": [m["written"] for m in tree["models"]],
        "command": [m["command"] for m in tree["models"]],
    }
    data = {f"data: {name}": [f"{a['sha256']} ({a['samples']:,} pictures)"] for name, a in tree["data"].items()}
    return [(what, [each[0]] if len(set(each)) == 1 else each) for what, each in {**rows, **data}.items()]
