"""Zero-shot classification: each class is a text, and a picture belongs to the class whose text it is nearest to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.classified import KS, Classified
from eval.datasets import Protocol
from eval.embeddings.split import EmbeddedSplit, Split
from eval.labels import USUAL_LABELS, Labels, field_of, labels_of, listed
from eval.metrics.average_precision import average_precision_per_class
from eval.metrics.ranking import Ints, Relevant, predicted
from eval.prompts.class_names import Names, classes, first_names
from eval.prompts.classifier import class_vectors, spoken
from eval.prompts.templates import Template, from_texts, templates
from eval.search.searched import Searched
from eval.tasks import Measured, Presentation, mean_of
from vlp.errors import UserError

USUAL_TEMPLATES = "picture"


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Searched):
    """Accuracy at 1 and 5 and mean per-class recall, or mAP, over the classes of the dataset or of a metadata field."""

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
        return field_of(split, self.label)

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
        seen = sorted({name for sample in split.samples for name in listed(sample.metadata.get(field))})
        return tuple(seen), tuple((spoken(name),) for name in seen)

    def filled(self, split: Split) -> list[Template]:
        """The templates that are used: those that were asked for, else the dataset's own, else the usual ones."""
        if not self.templates and split.protocol.templates:
            return list(from_texts(split.protocol.templates))
        return list(templates(self.templates or USUAL_TEMPLATES))

    def labels(self, split: Split) -> tuple[Labels, Names]:
        """Which picture has which class, and [C] every name of each. Raises UserError for a class that is none."""
        classes, names = self.names(split)
        counted = self.classes or split.protocol.classes  # else classes are in no order, and have no numbers
        return labels_of(split, self.field(split), classes if counted else (), names, of=self.classes), names

    def unfit(self, split: Split) -> str:
        """Fewer than two classes. Raises UserError where the label or the classes were asked for by name."""
        labels, names = self.labels(split)
        count = len(labels.classes) if len(labels.rows) else 0
        chosen = self.label or self.classes or split.protocol.classes
        if count > 1 and not chosen and all(name.isdigit() for name, *_ in names):
            return f'it has numbers in the field "{self.field(split)}": name them by --classes FILE'
        if count > 1:
            return ""
        what = f'{count or "no"} {"class" if count == 1 else "classes"} in the field "{self.field(split)}"'
        if self.label or self.classes:
            have = ", ".join(split.fields) or "none"
            raise UserError(f"{split.spec} has {what}, and two are needed; the fields of its samples are: {have}")
        return f"it has {what}"

    def classified(self, split: EmbeddedSplit) -> tuple[Labels, NDArray[np.float32]]:
        """Which picture has which class, and the classes' vectors [C, D]. Raises UserError if there are not two."""
        if reason := self.unfit(split):
            raise UserError(f"{split.spec} cannot be classified: {reason}")
        labels, names = self.labels(split)
        return labels, class_vectors(split.release, names, self.filled(split))

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`LABEL/acc1`, `LABEL/acc5` (of five classes and more) and `LABEL/mean_per_class_recall`.

        `LABEL/mean_average_precision` where pictures have several classes. Raises UserError if there are not two.
        """
        labels, vectors = self.classified(split)
        if split.protocol.multi_label or not labels.single:
            return self._several_classes(split, labels, vectors)
        keys = tuple(split.keys[row] for row in labels.rows)
        image, relevant = split.image[labels.rows], Relevant.from_pairs(np.arange(len(keys)), labels.of)
        first = predicted(image, vectors, relevant)
        headline = "Given a picture, it names the right one of {candidates} classes first, {value} of the time."

        def measure(ranks: Ints) -> dict[str, Measured]:
            result = Classified(labels.classes, keys, labels.of, ranks, first)
            return result.measured(self.field(split), self._words(split), seed=self.seed, headline=headline)

        return self.ranked(image, vectors, relevant, measure, most=max(KS))

    def _several_classes(
        self, split: EmbeddedSplit, labels: Labels, vectors: NDArray[np.float32]
    ) -> dict[str, Measured]:
        """Every class looks for its pictures; the interval is over the classes."""
        rows, row = np.unique(labels.rows, return_inverse=True)
        precision = average_precision_per_class(split.image[rows], vectors, row, labels.of)
        prevalence = np.bincount(labels.of, minlength=len(vectors)) / len(rows)
        explains = "mAP: the average precision of each class over all pictures, averaged over the classes."
        return {
            f"{self.field(split)}/mean_average_precision": mean_of(
                precision,
                Protocol(classes=labels.classes).labels,
                candidates=len(rows),
                chance=float(prevalence.mean()),
                seed=self.seed,
                presentation=Presentation(self._words(split), "mAP", explains, primary=True),
            )
        }

    def _words(self, split: Split) -> tuple[str, ...]:
        return (f"zero-shot by {self.field(split)}",)
