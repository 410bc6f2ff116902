"""Calibration of zero-shot classification: whether a model is right as often as its probabilities say.

The probabilities are the softmax of logit scale times cosine, as the model was trained. Of classes of equal score the
right one comes last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.embeddings.split import EmbeddedSplit, Split
from eval.labels import Labels
from eval.metrics.calibration import error_interval, reliability
from eval.metrics.ranking import Floats, Relevant, scores_of
from eval.tasks import Measured, Presentation, mean_of
from eval.tasks.zero_shot import ZeroShot
from vlp.config.bounds import Count
from vlp.errors import UserError


class Sure(NamedTuple):
    """What a model says of pictures, and how sure it is."""

    confidence: Floats  # [Q] probability of the class that it names
    hits: Floats  # [Q] 1 where this is the right one
    truth: Floats  # [Q] log of the probability of the right one


@dataclass(frozen=True, kw_only=True)
class Calibration(ZeroShot):
    """Expected calibration error of zero-shot classification, and the negative log-likelihood."""

    bins: Count = 15
    """number of bins of the reliability diagram, of equal width"""

    @property
    def primary(self) -> str:
        """The expected calibration error."""
        return f"{super().primary.removesuffix('/acc1')}/ece"

    def unfit(self, split: Split) -> str:
        """As zero-shot, and several classes of one picture, whose probabilities do not add up to 1."""
        reason = super().unfit(split)
        if not reason and (split.protocol.multi_label or not self.labels(split)[0].single):
            reason = f'it has pictures of several classes in the field "{self.field(split)}"'
        return reason

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`LABEL/ece`, with the bins in its detail, and `LABEL/nll`.

        Raises UserError if there are not two classes, or several of one picture.
        """
        if reason := self.unfit(split):
            raise UserError(f"{split.spec} cannot be calibrated: {reason}")
        labels, vectors = self.classified(split)
        scale = float(split.release.encoder.logit_scale.detach().exp())
        sure = sureness(split, labels, vectors, scale)
        diagram = reliability(sure.confidence, sure.hits, bins=self.bins)
        keys = tuple(split.keys[row] for row in labels.rows)
        name, label = self.field(split), ("calibration", *self._words(split))
        diagram_rows = [
            {"low": low, "high": high, "count": count, "confidence": confidence, "accuracy": accuracy}
            for low, high, count, confidence, accuracy in zip(
                *(part.tolist() for part in (diagram.edges[:-1], diagram.edges[1:], *diagram[1:])), strict=True
            )
        ]
        explains = "ECE: mean distance of accuracy from confidence, over bins of confidence."
        likely = "NLL: mean negative log of the probability of the right class."
        return {
            f"{name}/ece": Measured(
                value=diagram.error,
                interval=error_interval(sure.confidence, sure.hits, bins=self.bins, seed=self.seed),
                queries=len(keys),
                candidates=len(vectors),
                chance=None,
                presentation=Presentation(label, "ECE", explains, primary=True),
                better="lower",
                detail={"bins": diagram_rows, "logit_scale": scale, "confidence": float(sure.confidence.mean())},
            ),
            f"{name}/nll": mean_of(
                -sure.truth,
                keys,
                candidates=len(vectors),
                chance=float(np.log(len(vectors))),
                seed=self.seed,
                unit="score",
                better="lower",
                presentation=Presentation(label, "NLL", likely),
            ),
        }


def sureness(split: EmbeddedSplit, labels: Labels, vectors: NDArray[np.float32], scale: float) -> Sure:
    """How sure a model of this logit scale is of the pictures with a class; vectors: [C, D] of the classes."""
    image, relevant = split.image[labels.rows], Relevant.from_pairs(np.arange(len(labels.rows)), labels.of)
    confidence, hits, truth = (np.empty(len(image)) for _ in range(3))
    for rows, scores in scores_of(image, vectors, relevant):
        logits = scale * scores.astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(logits).sum(axis=1))
        right = (np.arange(len(logits)), labels.of[rows])
        own = logits[right]
        logits[right] = -np.inf
        confidence[rows] = np.exp(-log_sum)
        hits[rows] = own > logits.max(axis=1)
        truth[rows] = own - log_sum
    return Sure(confidence, hits, truth)
