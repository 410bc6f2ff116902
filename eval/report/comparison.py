"""Models that were measured alike, metric by metric on the same queries: the tree of compare.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.metrics.paired import Paired, holm, paired
from eval.report.assemble import is_current
from eval.report.results import Queries, read_details, read_queries
from vlp.errors import UserError
from vlp.legible import plain

FORMAT = "vlp-comparison-1"
LEVEL = 0.05  # a corrected p below this is called a difference
MAY_DIFFER = ("name", "task", "data", "seed", "left_out")  # of a task's record, where models are compared
Tree = dict[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """One model's evaluation: the folder that `vlp eval --out` wrote, and its report."""

    folder: Path
    tree: Tree
    label: str
    """a short name of the model, which no other of the comparison has"""

    @property
    def metrics(self) -> dict[str, float]:
        """Every number of the report."""
        metrics: dict[str, float] = self.tree["metrics"]
        return metrics


def opened(words: Sequence[str]) -> list[Evaluated]:
    """The evaluations that these words name: a folder, its report.json, or a model folder beside whose run one lies.

    Raises UserError for what is no evaluation, or one of an earlier version.
    """
    files = [_report_of(Path(word)) for word in words]
    trees = []
    for file in files:
        try:
            tree = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{file} is not a report that can be read ({plain(error)}); evaluate again") from None
        if not isinstance(tree, dict) or not is_current(tree):
            raise UserError(f"{file} is no report of this version; evaluate again: vlp eval ... --out {file.parent}")
        trees.append(tree)
    labels = distinct([_short(tree["model"]["name"]) for tree in trees])
    return [Evaluated(f.parent, tree, label) for f, tree, label in zip(files, trees, labels, strict=True)]


def _report_of(path: Path) -> Path:
    """The report.json that `path` means. Raises UserError if there is none."""
    if path.is_file():
        return path
    if (path / "report.json").is_file():
        return path / "report.json"
    if (path / "model.toml").is_file():
        for file in (path.parent / "eval" / "report.json", path.parent / "report.json"):
            if file.is_file():
                return file
        raise UserError(
            f"the model {path} has no evaluation beside it: vlp eval {path} SHARDS --out {path.parent}/eval"
        )
    raise UserError(f"there is no evaluation in {path}: give what `vlp eval ... --out FOLDER` wrote")


def _short(name: str) -> str:
    """A model's name for a heading.

    >>> _short("runs/demo/model"), _short("ViT-B-32:laion2b_s34b_b79k")
    ('demo', 'ViT-B-32:laion2b_s34b_b79k')
    """
    path = Path(name)
    return plain(path.parent.name if path.name == "model" and path.parent.name else path.name, 40)


def distinct(labels: Sequence[str]) -> list[str]:
    """The same labels, with a number where one comes again.

    >>> distinct(["demo", "plain", "demo"])
    ['demo', 'plain', 'demo (2)']
    """
    return [f"{one} ({labels[: i + 1].count(one)})" if one in labels[:i] else one for i, one in enumerate(labels)]


def refuse_unlike(models: Sequence[Evaluated]) -> list[str]:
    """The metrics that all have, measured alike. Raises UserError where the data or the protocol are not the same."""
    first = models[0]
    for other in models[1:]:
        for split in first.tree["data"].keys() & other.tree["data"].keys():
            _refuse_other_data(split, first, other)
            _refuse_other_protocol(split, first, other)
    names = [name for name in first.metrics if all(name in model.metrics for model in models)]
    if not names:
        have = "; ".join(f"{m.label}: {', '.join(m.tree['data'])}" for m in models)
        raise UserError(f"these evaluations have no metric in common ({have}); evaluate the models on the same data")
    return names


def _refuse_other_data(split: str, first: Evaluated, other: Evaluated) -> None:
    one, two = first.tree["data"][split], other.tree["data"][split]
    for key, what in (("sha256", "data of sha256"), ("samples", "samples:")):
        if one[key] != two[key]:
            mine, its = (str(about[key])[:12] or "unknown" for about in (one, two))
            raise UserError(
                f'"{split}" was measured on other data: {first.label} on {what} {mine}, {other.label} on {its}; '
                "evaluate both on the same"
            )
    if one["protocol"] != two["protocol"]:
        key = next(key for key, value in one["protocol"].items() if value != two["protocol"].get(key))
        raise UserError(
            f'"{split}" was measured by another protocol: {first.label} and {other.label} do not have the same {key} '
            "(classes or templates of the dataset were changed); evaluate both alike"
        )


def _refuse_other_protocol(split: str, first: Evaluated, other: Evaluated) -> None:
    tasks = ({task["name"]: task for task in model.tree["tasks"][split]} for model in (first, other))
    one, two = tasks
    for name in one.keys() & two.keys():
        for key in (one[name].keys() | two[name].keys()) - set(MAY_DIFFER):
            mine, its = one[name].get(key), two[name].get(key)
            if mine != its:
                raise UserError(
                    f'the task "{name}" on "{split}" was measured by another protocol: {key} is {plain(mine, 60)} for '
                    f"{first.label} and {plain(its, 60)} for {other.label}; evaluate both alike"
                )


def compared(models: Sequence[Evaluated]) -> Tree:
    """The tree of compare.json: every metric in common, and of each other model against the first.

    Raises UserError for evaluations that cannot be compared.
    """
    names = refuse_unlike(models)
    queries = [read_queries(model.folder, names) for model in models]
    against = {
        (name, other): _paired(name, queries[0][name], queries[other][name])
        for name in names
        for other in range(1, len(models))
        if all(name in queries[i] for i in (0, other))
    }
    corrected = dict(zip(against, holm([result.p for result in against.values()]), strict=True))
    first = models[0].tree
    return {
        "format": FORMAT,
        "models": [_about(model) for model in models],
        "data": {
            split: about for split, about in first["data"].items() if any(n.startswith(f"{split}/") for n in names)
        },
        "metrics": {
            name: {
                **{key: first[key][name] for key in ("labels", "measures", "units", "better", "chance", "primary")},
                **{key: first[key][name] for key in ("queries", "candidates", "explanations")},
                "values": [model.metrics[name] for model in models],
                "intervals": [model.tree["intervals"][name] for model in models],
                "against_first": [
                    _row(against[name, other], corrected[name, other], first["better"][name])
                    if (name, other) in against
                    else None
                    for other in range(1, len(models))
                ],
            }
            for name in names
        },
        "only_in_some": sorted({name for model in models for name in model.metrics} - set(names)),
        "tests": {"count": len(against), "correction": "Holm", "level": LEVEL},
    }


def _about(model: Evaluated) -> Tree:
    keys = ("model", "versions", "machine", "written", "command")
    return {"label": model.label, "folder": str(model.folder), **{key: model.tree[key] for key in keys}}


def _paired(name: str, first: Queries, second: Queries) -> Paired:
    """Raises UserError if the queries are not the same ones."""
    if first.keys != second.keys:
        place = {key: row for row, key in enumerate(second.keys)}
        if first.keys != tuple(key for key in first.keys if key in place) or len(place) != len(first.keys):
            raise UserError(f"the queries of {name} are not the same ones; evaluate both models on the same data")
        rows = np.array([place[key] for key in first.keys])
        second = Queries(first.keys, second.values[rows], None if second.groups is None else second.groups[rows])
    return paired(first.values, second.values, first.groups)


def _row(result: Paired, corrected: float, better: str) -> Tree:
    """What is said of one model against the first."""
    gain = result.difference if better == "higher" else -result.difference
    verdict = "" if corrected >= LEVEL else "better" if gain > 0 else "worse"
    return {
        "difference": round(result.difference, 6),
        "interval": [round(bound, 6) for bound in result.interval],
        "p": result.p,
        "p_holm": corrected,
        "test": result.test,
        "higher": result.higher,
        "lower": result.lower,
        "verdict": verdict,
    }


def per_class(models: Sequence[Evaluated], names: Sequence[str]) -> dict[str, Tree]:
    """For each metric whose details say how every picture was classified: classes, labels [Q], predicted [model][Q]."""
    details = [read_details(model.folder) for model in models]
    classified: dict[str, Tree] = {}
    for name in names:
        own: list[Mapping[str, Any]] = [some.get(name, {}) for some in details]
        if all({"classes", "labels", "predicted"} <= one.keys() for one in own) and _alike(own):
            classes, labels = own[0]["classes"], own[0]["labels"]
            classified[name] = {"classes": classes, "labels": labels, "predicted": [one["predicted"] for one in own]}
    return classified


def _alike(details: Sequence[Mapping[str, Any]]) -> bool:
    return all(one[key] == details[0][key] for one in details for key in ("classes", "labels"))


def reliability(models: Sequence[Evaluated], names: Sequence[str]) -> dict[str, list[list[Tree]]]:
    """For each metric whose details have the bins of a reliability diagram: those of each model."""
    details = [read_details(model.folder) for model in models]
    bins = {name: [some.get(name, {}).get("bins") for some in details] for name in names}
    return {name: [one for one in each if one] for name, each in bins.items() if all(each)}
