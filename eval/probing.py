"""What classifiers that learn from labelled pictures have in common: a part to learn from, and one to be tested on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Gt, Lt
from numpy.typing import NDArray

from eval.classified import Classified
from eval.embeddings.split import EmbeddedSplit, Split
from eval.labels import USUAL_LABELS, Labels, field_of, labels_of
from eval.metrics.ranking import Floats, Ints
from eval.tasks import Measured, Task
from vlp.errors import UserError


class Features(NamedTuple):
    """Frozen embeddings of pictures that have one class each."""

    vectors: NDArray[np.float32]  # [N, D], unit norm
    labels: Ints  # [N]
    keys: tuple[str, ...]  # [N]

    def rows(self, chosen: NDArray[np.bool_] | Ints) -> Features:
        """The chosen ones, by mask or by number."""
        numbers = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Features(self.vectors[numbers], self.labels[numbers], tuple(self.keys[i] for i in numbers))


def hashed_below(keys: tuple[str, ...], share: float, salt: str) -> NDArray[np.bool_]:
    """[N] whether the hash of a key, from 0 to 1, lies below `share`: the same choice in every run.

    >>> keys = tuple(map(str, range(1000)))
    >>> bool(0.45 < hashed_below(keys, 0.5, "a").mean() < 0.55)
    True
    """
    digests = (hashlib.sha256(f"{salt}/{key}".encode()).digest()[:8] for key in keys)
    return np.array([int.from_bytes(digest) / 2**64 < share for digest in digests], bool)


@dataclass(frozen=True, kw_only=True)
class Probe(Task):
    """Base of the tasks that learn a classifier of frozen embeddings."""

    label: str = ""
    """metadata field that holds a picture's class; pictures without it take no part; empty: the dataset's own, else the
    first there is of subgroup, class and cls"""
    train: str = ""
    """shard set to learn from; empty: a part of the data itself, by hash of the keys, which is then not tested"""
    train_share: Annotated[float, Gt(0), Lt(1)] = 0.5
    """how much of the data is learned from where `train` is empty"""

    def field(self, split: Split) -> str:
        """The metadata field that is read."""
        return field_of(split, self.label)

    @property
    def method(self) -> str:
        """Name of the classifier, as it stands in the names of its metrics."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def primary(self) -> str:
        """Accuracy at 1."""
        return f"{self.name(self.label or USUAL_LABELS[0])}/acc1"

    def name(self, field: str) -> str:
        """What the names of the metrics begin with."""
        return f"{self.method}/{field}"

    def unfit(self, split: Split) -> str:
        """Fewer than two classes, or several of one picture. Raises UserError where the label was asked for by name."""
        labels, field = self.labels(split), self.field(split)
        count = len(np.unique(labels.of))
        if count > 1 and labels.single:
            return ""
        what = "pictures that have several classes" if count > 1 else f"{count} classes"
        if self.label:
            raise UserError(f'{split.spec} has {what} in the field "{field}", and one a picture, of two is needed')
        return f'it has {what} in the field "{field}"'

    def labels(self, split: Split) -> Labels:
        """Which picture has which class. Raises UserError for one that is none of the dataset's."""
        return labels_of(split, self.field(split), split.protocol.labels)

    def parts(self, split: EmbeddedSplit) -> tuple[tuple[str, ...], Features, Features]:
        """The classes, what to learn from, and what to test. Raises UserError if one of the two has nothing."""
        if reason := self.unfit(split):
            raise UserError(f"{split.spec} cannot be probed: {reason}")
        own = self.labels(split)
        if self.train:
            other = EmbeddedSplit(split.release, self.train, bar=False)
            theirs = labels_of(other, self.field(split), split.protocol.labels)
            if not len(theirs.rows) or not theirs.single:
                raise UserError(f'{self.train} has no pictures with one class each in the field "{self.field(split)}"')
            classes = split.protocol.labels or tuple(sorted({*own.classes, *theirs.classes}))
            return classes, _features(other, theirs.in_classes(classes)), _features(split, own.in_classes(classes))
        every = _features(split, own)
        learned = hashed_below(every.keys, self.train_share, "train")
        if learned.all() or not learned.any():
            raise UserError(f"{split.spec} is too small to be divided into a part to learn from and one to test")
        return own.classes, every.rows(learned), every.rows(~learned)

    def report(self, split: Split, scores: Floats, test: Features, classes: tuple[str, ...]) -> dict[str, Measured]:
        """The accuracies of scores [Q, C] by name."""
        result = Classified.by_scores(classes, test.keys, test.labels, scores)
        return result.measured(self.name(self.field(split)), self.words(split), seed=self.seed)

    def words(self, split: Split) -> tuple[str, ...]:
        """What is measured, as reports say it."""
        return (f"{self.method.replace('_', ' ')} by {self.field(split)}",)


def _features(split: EmbeddedSplit, labels: Labels) -> Features:
    return Features(split.image[labels.rows], labels.of, tuple(split.keys[row] for row in labels.rows))
