"""Zero-shot classification: each class is a text, and a picture belongs to the class whose text it is nearest to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.datasets import Protocol
from eval.embeddings.split import EmbeddedSplit, Split
from eval.metrics.ranking import Relevant, first_relevant_rank, predicted
from eval.prompts.class_names import Names, classes, first_names
from eval.prompts.classifier import class_vectors, spoken
from eval.prompts.templates import Template, from_texts, templates
from eval.tasks import Measured, Presentation, Task, mean_of, measure_recall
from vlp.errors import UserError
from vlp.legible import plain

USUAL_LABELS = ("subgroup", "class", "cls")  # as the bundled corpus, other datasets and .cls members have it
USUAL_TEMPLATES = "picture"


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Task):
    """Accuracy at 1 and 5, and mean per-class recall, over the classes of the dataset or of a metadata field."""

    label: str = ""
    """metadata field that holds a picture's class, by name or number; pictures without it take no part; empty: the
    dataset's own, else the first there is of subgroup, class and cls"""
    classes: str = ""
    """list of classes: a file of eval/prompts/classes, imagenet, or a .txt (one in each line) or .toml file of yours;
    empty: the dataset's own, else all that the pictures have"""
    templates: str = ""
    """set of templates: a file of eval/prompts (bare, picture), imagenet_7, imagenet_80, or a .toml file of yours;
    empty: the dataset's own, else picture"""

    @property
    def primary(self) -> str:
        """Accuracy at 1."""
        return f"{self.label or USUAL_LABELS[0]}/acc1"

    def field(self, split: Split) -> str:
        """The metadata field that is read."""
        usual = (name for name in USUAL_LABELS if any(name in sample.metadata for sample in split.samples))
        return self.label or split.protocol.label or next(usual, USUAL_LABELS[0])

    def names(self, split: Split) -> tuple[tuple[str, ...], Names]:
        """(C,) the labels of the classes, and [C] every name of each, by which it is called in prompts.

        Raises UserError for a list that is none, or of another length than the dataset's.
        """
        protocol = split.protocol
        if self.classes:
            names = classes(self.classes)
            if protocol.classes and len(names) != len(protocol.classes):
                raise UserError(
                    f"{self.classes} has {len(names):,} classes, but {split.spec} has {len(protocol.classes):,}: "
                    "give a list in the order of the dataset's own"
                )
            return protocol.labels or Protocol(classes=tuple(first_names(names))).labels, names
        if protocol.classes:
            return protocol.labels, tuple((name,) for name in protocol.classes)
        field = self.field(split)
        seen = sorted({name for sample in split.samples for name in _listed(sample.metadata.get(field))})
        return tuple(seen), tuple((spoken(name),) for name in seen)

    def filled(self, split: Split) -> list[Template]:
        """The templates that are used: those that were asked for, else the dataset's own, else the usual ones."""
        if not self.templates and split.protocol.templates:
            return list(from_texts(split.protocol.templates))
        return list(templates(self.templates or USUAL_TEMPLATES))

    def numbers(self, split: Split, labels: tuple[str, ...], names: Names) -> list[list[int]]:
        """[N] the numbers of the classes of each picture, none where it has no class.

        Raises UserError for a class that is not among `labels` nor `names`, and for a number beyond them.
        """
        number = {name: i for i, some in reversed(list(enumerate(names))) for name in some}
        number |= {label: i for i, label in enumerate(labels)}
        number = {str(i): i for i in range(len(labels))} | number if self._counted(split) else number
        field = self.field(split)
        rows = []
        for sample in split.samples:
            own = _listed(sample.metadata.get(field))
            for name in own:
                if name not in number:
                    raise UserError(
                        f'{split.spec} has the class {plain(name)!r} in "{field}" of {plain(sample.key)}, which is '
                        f"none of the {len(labels):,} classes of {self.classes or 'the dataset'}: "
                        f"{plain(', '.join(labels), 100)}"
                    )
            rows.append([number[name] for name in own])
        return rows

    def _counted(self, split: Split) -> bool:
        """Whether classes may be given by their number: of a list that says which comes when."""
        return bool(self.classes or split.protocol.classes)

    def unfit(self, split: Split) -> str:
        """Fewer than two classes. Raises UserError where the label or the classes were asked for by name."""
        labels, names = self.names(split)
        field = self.field(split)
        own = {number for row in self.numbers(split, labels, names) for number in row}
        count = len(labels) if own else 0
        if count > 1:
            return ""
        what = f'{count or "no"} {"class" if count == 1 else "classes"} in the field "{field}"'
        if self.label or self.classes:
            have = ", ".join(split.fields) or "none"
            raise UserError(f"{split.spec} has {what}, and two are needed; the fields of its samples are: {have}")
        return f"it has {what}"

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`LABEL/acc1`, `LABEL/acc5` and `LABEL/mean_per_class_recall`.

        Raises UserError if fewer than two classes are there.
        """
        if reason := self.unfit(split):
            raise UserError(f"{split.spec} cannot be classified: {reason}")
        labels, names = self.names(split)
        own = self.numbers(split, labels, names)
        rows = np.array([i for i, some in enumerate(own) if some])
        vectors = class_vectors(split.release, names, self.filled(split))
        return self._one_class(split, rows, np.array([own[row][0] for row in rows], np.int64), vectors, labels)

    def _one_class(
        self,
        split: EmbeddedSplit,
        rows: NDArray[Any],
        labels: NDArray[np.int64],
        vectors: NDArray[np.float32],
        classes: Sequence[str],
    ) -> dict[str, Measured]:
        """Of pictures (`rows`, [Q]) that have one class each (`labels`, [Q]); vectors: [C, D] of `classes` [C]."""
        field, count = self.field(split), len(vectors)
        keys = tuple(split.keys[row] for row in rows)
        relevant = Relevant.from_pairs(np.arange(len(rows)), labels)
        ranks = first_relevant_rank(split.image[rows], vectors, relevant)
        confusion = {"classes": list(classes), "labels": labels.tolist()}
        confusion["predicted"] = predicted(split.image[rows], vectors, relevant).tolist()
        result = {
            f"{field}/acc{k}": measure_recall(
                ranks,
                relevant,
                k=k,
                keys=keys,
                candidates=count,
                seed=self.seed,
                presentation=_accuracy(field, k),
                detail=confusion if k == 1 else {},
            )
            for k in (1, 5)
        }
        result[f"{field}/mean_per_class_recall"] = mean_of(
            ranks < 1,
            keys,
            candidates=count,
            chance=1 / count,
            seed=self.seed,
            groups=labels,
            presentation=Presentation(
                _words(field), "per class", "Per class: acc@1 of each class, averaged over the classes."
            ),
        )
        return result


def _listed(value: object) -> list[str]:
    """The classes that a field holds, as texts."""
    values = value if isinstance(value, list) else [value]
    return [str(one) for one in values if one not in (None, "")]


def _words(field: str) -> tuple[str, ...]:
    return (f"zero-shot by {field}",)


def _accuracy(field: str, k: int) -> Presentation:
    return Presentation(
        label=_words(field),
        measure=f"acc@{k}",
        explains="acc@K: the share of pictures whose class is among the K that the model finds nearest.",
        headline="Given a picture, it names the right one of {candidates} classes first, {value} of the time."
        if k == 1
        else "",
        primary=k == 1,
    )
