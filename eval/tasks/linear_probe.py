"""Linear probe: logistic regression on frozen embeddings (Radford et al. 2021, appendix A.3).

L-BFGS; the regularisation is searched on a validation part, then the classifier is learned from both parts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt

from eval.classified import Classified
from eval.embeddings.split import EmbeddedSplit
from eval.metrics.logistic import Linear, fit, search
from eval.probing import Features, Probe, hashed_below
from eval.tasks import Measured
from vlp.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Probe):
    """Accuracy of a linear classifier that is learned from the embeddings of labelled pictures."""

    validation_share: Annotated[float, Gt(0), Lt(1)] = 0.2
    """how much of what is learned from chooses the regularisation first, by hash of the keys"""

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`linear_probe/LABEL/acc1`, `.../acc5` (of five classes and more) and `.../mean_per_class_recall`.

        acc1 has the regularisation in its detail (`c`, as scikit-learn's C), and the accuracy on the validation part of
        each that was tried. Raises UserError if there are not two classes, or nothing to learn from.
        """
        classes, train, test = self.parts(split)
        c, tried = self._searched(train, classes)
        linear = fit(train.vectors, train.labels, classes=len(classes), c=c)
        result = self.report(split, linear.scores(test.vectors), test, classes)
        name = f"{self.name(self.field(split))}/acc1"
        chosen = {
            "c": c,
            "tried": {f"{one:.4g}": value for one, value in tried.items()},
            "learned_from": len(train.keys),
        }
        return {**result, name: replace(result[name], detail={**result[name].detail, **chosen})}

    def _searched(self, train: Features, classes: tuple[str, ...]) -> tuple[float, dict[float, float]]:
        """The regularisation of the highest accuracy on the validation part, and the accuracy of each."""
        chosen = hashed_below(train.keys, self.validation_share, "validation")
        if chosen.all() or not chosen.any():
            raise UserError(f"{len(train.keys)} pictures to learn from are too few to set some apart for validation")
        rest, validation = train.rows(~chosen), train.rows(chosen)
        last: list[Linear] = []

        def accuracy(c: float) -> float:
            linear = fit(rest.vectors, rest.labels, classes=len(classes), c=c, start=last[-1] if last else None)
            last[:] = [linear]
            scores = linear.scores(validation.vectors)
            ranks = Classified.by_scores(classes, validation.keys, validation.labels, scores).ranks
            return float(np.mean(ranks < 1))

        return search(accuracy)
