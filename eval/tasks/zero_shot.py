"""Zero-shot classification: each class is a text, and a picture belongs to the class whose text it is nearest to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.embeddings.split import EmbeddedSplit, Split
from eval.metrics.ranking import Relevant, first_relevant_rank, predicted
from eval.prompts.classifier import classifier
from eval.tasks import Measured, Presentation, Task, mean_of, measure_recall
from vlp.errors import UserError

DEFAULT_LABEL = "subgroup"  # as the bundled corpus has it


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Task):
    """Accuracy at 1 and 5, and mean per-class recall, over the classes that a metadata field names."""

    label: str = ""
    """metadata field that holds a picture's class; pictures without it take no part; empty: subgroup, where there is"""
    templates: str = "picture"
    """set of templates: a file of eval/prompts (bare, picture), imagenet_7, imagenet_80, or a .toml file of yours"""

    @property
    def field(self) -> str:
        """The metadata field that is read."""
        return self.label or DEFAULT_LABEL

    @property
    def primary(self) -> str:
        """Accuracy at 1."""
        return f"{self.field}/acc1"

    def labels(self, split: Split) -> list[str | None]:
        """(N,) the class of every picture, None where it has none."""
        values = (sample.metadata.get(self.field) for sample in split.samples)
        return [str(value) if value not in (None, "") else None for value in values]

    def unfit(self, split: Split) -> str:
        """Fewer than two classes. Raises UserError where the label was asked for by name."""
        count = len({name for name in self.labels(split) if name is not None})
        if count > 1:
            return ""
        what = f'{count or "no"} {"class" if count == 1 else "classes"} in the field "{self.field}"'
        if self.label:
            have = ", ".join(split.fields) or "none"
            raise UserError(f"{split.spec} has {what}, and two are needed; the fields of its samples are: {have}")
        return f"it has {what}"

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`LABEL/acc1`, `LABEL/acc5` and `LABEL/mean_per_class_recall`; the classes are those that the split holds.

        Raises UserError if fewer than two classes are there.
        """
        if reason := self.unfit(split):
            raise UserError(f"{split.spec} cannot be classified: {reason}")
        names = self.labels(split)
        classes = sorted({name for name in names if name is not None})
        number = {name: i for i, name in enumerate(classes)}
        rows = np.array([i for i, name in enumerate(names) if name is not None])
        keys = tuple(split.keys[row] for row in rows)
        labels = np.array([number[name] for name in names if name is not None], np.int64)
        relevant = Relevant.from_pairs(np.arange(len(rows)), labels)
        vectors = classifier(split.release, classes, self.templates)
        ranks = first_relevant_rank(split.image[rows], vectors, relevant)
        confusion = {"classes": classes, "labels": labels.tolist()}
        confusion["predicted"] = predicted(split.image[rows], vectors, relevant).tolist()
        result = {
            f"{self.field}/acc{k}": measure_recall(
                ranks,
                relevant,
                k=k,
                keys=keys,
                candidates=len(classes),
                seed=self.seed,
                presentation=self._accuracy(k),
                detail=confusion if k == 1 else {},
            )
            for k in (1, 5)
        }
        result[f"{self.field}/mean_per_class_recall"] = mean_of(
            ranks < 1,
            keys,
            candidates=len(classes),
            chance=1 / len(classes),
            seed=self.seed,
            groups=labels,
            presentation=Presentation(
                self._label(), "per class", "Per class: acc@1 of each class, averaged over the classes."
            ),
        )
        return result

    def _label(self) -> tuple[str, ...]:
        return (f"zero-shot by {self.field}",)

    def _accuracy(self, k: int) -> Presentation:
        return Presentation(
            label=self._label(),
            measure=f"acc@{k}",
            explains="acc@K: the share of pictures whose class is among the K that the model finds nearest.",
            headline="Given a picture, it names the right one of {candidates} classes first, {value} of the time."
            if k == 1
            else "",
            primary=k == 1,
        )
