"""The queries that one model answers and another does not, with their pictures, read from the data once more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.captions import normalised
from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from eval.datasets import Dataset
from eval.report.comparison import Evaluated
from eval.report.results import Queries, read_queries
from eval.search.page import data_uri
from vlp.config import build, only_ours
from vlp.errors import UserError
from vlp.legible import plain
from vlp.pictures import Limits, Refused, decode

MOST = 8  # queries shown for each model and metric
SIDE = 112  # of a thumbnail, pixels
Tree = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """One query: its picture (of a caption, the first that has it) and what is said of it."""

    uri: str
    text: str
    answers: tuple[tuple[str, str], ...]  # (model, what it answered), where the task says
    truth: str = ""


@dataclass(frozen=True)
class Changed:
    """The queries of one metric that one of two models alone answers."""

    title: str
    sides: tuple[tuple[str, int, tuple[Query, ...]], ...]  # the model that is right, how many, some of them
    note: str = ""


@dataclass(frozen=True)
class _Side:
    label: str
    count: int
    keys: tuple[str, ...]


def changed_queries(models: Sequence[Evaluated], tree: Tree, classified: Mapping[str, Tree]) -> list[Changed]:
    """Of each metric that stands for its row, what the first model alone answers, and what the last one alone does.

    Metrics of which a query is not right or wrong are left out.
    """
    names = [name for name, metric in tree["metrics"].items() if metric["primary"]]
    each = [read_queries(model.folder, names) for model in (models[0], models[-1])]
    labels = (models[0].label, models[-1].label)
    sides = {
        name: _sides(each[0][name], each[1][name], labels)
        for name in names
        if all(name in one and one[name].right_or_wrong for one in each)
    }
    wanted: dict[str, set[str]] = {}
    for name, both in sides.items():
        wanted.setdefault(name.split("/")[0], set()).update(key for side in both for key in side.keys)
    pictures, notes = {}, {}
    for split, keys in wanted.items():
        try:
            pictures[split] = _pictures(dataset_of(tree["data"][split]).read(Ledger(), skip_damaged=True), keys)
            notes[split] = ""
        except (UserError, OSError) as error:
            pictures[split], notes[split] = {}, f"The pictures of {split} could not be read: {error}"
    return [
        Changed(
            f"{name.split('/')[0]}: {', '.join(tree['metrics'][name]['labels'])}, {tree['metrics'][name]['measures']}",
            tuple(
                (side.label, side.count, tuple(_query(key, name.split("/")[0]) for key in side.keys)) for side in both
            ),
            notes[name.split("/")[0]],
        )
        for name, both in sides.items()
        for _query in [_Writer(pictures, _answers(classified.get(name), each[0][name], labels))]
        if any(side.count for side in both)
    ]


def _sides(first: Queries, last: Queries, labels: tuple[str, str]) -> tuple[_Side, _Side]:
    """Which queries of the first model the last one loses, and which it gains; some of each, spread over all."""
    place = {key: row for row, key in enumerate(last.keys)}
    apart = np.array([last.values[place[key]] for key in first.keys]) - first.values
    sides = []
    for label, rows in zip(reversed(labels), (np.flatnonzero(apart > 0), np.flatnonzero(apart < 0)), strict=True):
        some = rows[np.unique(np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(int))] if len(rows) else rows
        sides.append(_Side(label, len(rows), tuple(first.keys[row] for row in some)))
    return sides[0], sides[1]


def _answers(about: Tree | None, queries: Queries, labels: tuple[str, str]) -> dict[str, tuple[str, Tree]]:
    """key -> (its class, what each model took it for), where the metric is a classification."""
    if about is None:
        return {}
    classes, answers = about["classes"], {}
    for row, key in enumerate(queries.keys):
        said = {
            label: classes[one[row]]
            for label, one in zip(labels, (about["predicted"][0], about["predicted"][-1]), strict=True)
        }
        answers[key] = (classes[about["labels"][row]], said)
    return answers


@dataclass(frozen=True)
class _Writer:
    """Keys of queries -> what is shown of them."""

    pictures: Mapping[str, Mapping[str, tuple[str, str]]]
    answers: Mapping[str, tuple[str, Tree]]

    def __call__(self, key: str, split: str) -> Query:
        uri, text = self.pictures[split].get(key, ("", key))
        truth, said = self.answers.get(key, ("", {}))
        return Query(
            uri, plain(text, 80), tuple((model, plain(one, 60)) for model, one in said.items()), plain(truth, 60)
        )


def dataset_of(about: Tree) -> Dataset:
    """The dataset that a report tells of; a relative place is one in the folder that it was evaluated in."""
    tree = dict(about["dataset"])
    inside = Path(about["folder"]) / tree.get("root", "")
    if tree.get("root") and not Path(tree["root"]).exists() and inside.exists():
        tree["root"] = str(inside)
    with only_ours():
        return build(Dataset, tree)


def _pictures(blocks: Iterable[tuple[str, list[Sample]]], keys: set[str]) -> dict[str, tuple[str, str]]:
    """key of a query -> (thumbnail, caption) of its picture; reading ends when all are there."""
    texts: dict[str, list[str]] = {}
    for key in keys:
        texts.setdefault(normalised(key), []).append(key)
    result: dict[str, tuple[str, str]] = {}
    seen: dict[str, int] = {}
    for _, samples in blocks:
        for sample in samples:
            seen[sample.key] = seen.get(sample.key, 0) + 1
            own = sample.key if seen[sample.key] == 1 else f"{sample.key}#{seen[sample.key]}"
            matches = [own] if own in keys else []
            matches += [key for said in _said(sample) for key in texts.get(normalised(said), ())]
            for key in dict.fromkeys(matches):
                if key not in result:
                    result[key] = (thumbnail(sample.image), sample.text if key == own else key)
        if len(result) == len(keys):
            break
    return result


def _said(sample: Sample) -> Iterator[str]:
    for language in sample.captions:
        yield from sample.said(language)


def thumbnail(image: bytes) -> str:
    """A small picture as a data: URI; "" for what cannot be decoded."""
    try:
        picture = decode(image, Limits())
    except Refused:
        return ""
    picture.thumbnail((SIDE, SIDE))
    file = BytesIO()
    picture.save(file, "webp", quality=80)
    return data_uri(file.getvalue())
