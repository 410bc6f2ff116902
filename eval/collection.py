"""Collections of datasets: what is there is measured, what is missing is named, and only a whole one is averaged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval.configuration import EvalConfig, present
from eval.report.assemble import Part
from eval.tasks import Measured

BOTH_WAYS = "mean_recall@1"
"""The metric of retrieval in DataComp: the mean of Recall@1 from picture to caption and back"""


def summary(config: EvalConfig, parts: Sequence[Part]) -> dict[str, Any]:
    """What report.json says of a collection: the value of each dataset, the average of all, or why there is none.

    value: the metric that stands for a dataset; interval: of the average, from those of the datasets, which are
    independent of each other (95 %, normal).
    """
    values: dict[str, float] = {}
    halves: list[float] = []
    without: dict[str, str] = {}
    for part in parts:
        metric = part.split.protocol.metric
        standing = _standing(part.measured, metric)
        if standing:
            values[part.name] = sum(m.value for m in standing) / len(standing)
            halves.append(sum(m.interval[1] - m.interval[0] for m in standing) / len(standing) / 2)
        else:
            without[part.name] = f"no task here measures {metric or 'what stands for it'}"
    absent = present(config)[1]
    tree: dict[str, Any] = {"name": config.collection, "values": values, "missing": absent, "without": without}
    if absent or without:
        count = len(values) + len(absent) + len(without)
        return tree | {"average": None, "interval": None, "why": f"{len(values)} of {count} datasets were measured"}
    average, half = sum(values.values()) / len(values), math.hypot(*halves) / len(values)
    return tree | {"average": round(average, 6), "interval": [average - half, average + half], "why": ""}


def _standing(measured: Mapping[str, Measured], metric: str) -> list[Measured]:
    """The measurements whose mean stands for a dataset; none where they were not made."""
    named = {name.split("/", 1)[1]: one for name, one in measured.items()}
    if metric == BOTH_WAYS:
        both = [
            one
            for name, one in named.items()
            if name.endswith("_to_text/recall@1") or name.endswith("_to_image/recall@1")
        ]
        return both if len(both) == 2 else []
    ending = metric or "acc1"
    return [one for name, one in named.items() if name.rsplit("/", 1)[-1] == ending][:1]


def lines(tree: Mapping[str, Any]) -> list[str]:
    """What is said of a collection on a screen: its average or why there is none, and what is missing."""
    if tree["average"] is None:
        first = f"no average of {tree['name']}: {tree['why']}, and only a whole collection is averaged"
    else:
        low, high = tree["interval"]
        first = f"{tree['name']}: {tree['average']:.4f} ({low:.4f} to {high:.4f}), over {len(tree['values'])} datasets"
    said = [f"not there: {', '.join(tree['missing'])}"] if tree["missing"] else []
    return [first, *said, *(f"without a value: {name}, because {why}" for name, why in tree["without"].items())]
