"""A report in the keys of clip-benchmark (its `clip_benchmark eval --output`), so that its users' scripts go on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Tree = dict[str, Any]
RETRIEVAL = {"text_to_image": "image_retrieval", "image_to_text": "text_retrieval"}
CLASSIFICATION = ("acc1", "acc5", "mean_per_class_recall", "mean_average_precision")
NO_LANGUAGE = "en"  # clip-benchmark's own default, where a task does not name one


def rows(tree: Tree) -> list[Tree]:
    """One row a data set, task and language: dataset, model, pretrained, task, metrics, language.

    Metrics that clip-benchmark does not have keep our names, in rows of the task "other".
    """
    model, _, pretrained = (
        tree["model"]["name"].partition(":") if _is_open_clip(tree) else (tree["model"]["name"], "", "")
    )
    gathered: dict[tuple[str, str, str], dict[str, float]] = {}
    for name, value in tree["metrics"].items():
        split, metric = name.split("/", 1)
        task, language, key = _theirs(metric)
        if key in gathered.get((split, task, language), {}):  # classes by another field, say
            task, language, key = "other", NO_LANGUAGE, metric
        gathered.setdefault((split, task, language), {})[key] = value
    return [
        {
            "dataset": split,
            "model": model,
            "pretrained": pretrained,
            "task": task,
            "metrics": metrics,
            "language": language,
        }
        for (split, task, language), metrics in gathered.items()
    ]


def _is_open_clip(tree: Tree) -> bool:
    return not tree["model"]["name"].startswith(("hf-hub:", "local-dir:"))


def _theirs(metric: str) -> tuple[str, str, str]:
    """(task, language, key) of a metric of ours.

    >>> _theirs("zh/text_to_image/recall@5"), _theirs("subgroup/acc1")
    (('zeroshot_retrieval', 'zh', 'image_retrieval_recall@5'), ('zeroshot_classification', 'en', 'acc1'))
    >>> _theirs("linear_probe/subgroup/acc1"), _theirs("knn/subgroup/acc1")
    (('linear_probe', 'en', 'lp_acc1'), ('other', 'en', 'knn/subgroup/acc1'))
    """
    retrieval = re.fullmatch(r"([^/]+)/(text_to_image|image_to_text)/(recall@\d+)", metric)
    if retrieval:
        language, way, measure = retrieval.groups()
        return "zeroshot_retrieval", language, f"{RETRIEVAL[way]}_{measure}"
    before, _, last = metric.rpartition("/")
    if last in CLASSIFICATION and "/" not in before:
        return "zeroshot_classification", NO_LANGUAGE, last
    if last in CLASSIFICATION and re.fullmatch("linear_probe/[^/]+", before):
        return "linear_probe", NO_LANGUAGE, f"lp_{last}"
    return "other", NO_LANGUAGE, metric


def files(tree: Tree, pattern: str) -> Iterator[tuple[str, Tree | list[Tree]]]:
    """(path, content) of what is written to `pattern`, in which {dataset}, {model}, {task} ... stand for a row's own.

    A pattern without any of them is one file with all rows, or with the only one as clip-benchmark writes it.
    """
    every = rows(tree)
    names: dict[str, list[Tree]] = {}
    for row in every:
        names.setdefault(_named(pattern, row), []).append(row)
    for name, some in names.items():
        yield name, some[0] if len(some) == 1 else some


def _named(pattern: str, row: Mapping[str, Any]) -> str:
    for key, value in row.items():
        pattern = pattern.replace(f"{{{key}}}", re.sub(r"[^\w.@-]+", "_", str(value)))
    return pattern
