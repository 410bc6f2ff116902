"""k-nearest-neighbour classification of frozen embeddings, weighted by similarity (Caron et al. 2021, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from eval.embeddings.split import EmbeddedSplit
from eval.metrics.neighbours import neighbour_votes
from eval.probing import Probe
from eval.tasks import Measured
from vlp.config.bounds import Count, Positive


@dataclass(frozen=True, kw_only=True)
class NearestNeighbours(Probe):
    """Accuracy of the class that most of the nearest labelled pictures have, nearer ones with more weight."""

    k: Count = 20
    """number of neighbours that vote"""
    temperature: Positive = 0.07
    """a neighbour's vote is exp(cosine / temperature)"""

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`knn/LABEL/acc1`, `.../acc5` (of five classes and more) and `.../mean_per_class_recall`.

        Raises UserError if there are not two classes, or nothing to learn from.
        """
        classes, train, test = self.parts(split)
        votes = neighbour_votes(
            test.vectors,
            train.vectors,
            train.labels,
            classes=len(classes),
            k=self.k,
            temperature=self.temperature,
        )
        return self.report(split, votes, test, classes)
