"""Samples like those of a reference: DataComp's image-based filter (Gadre et al. 2023, arXiv 2304.14108)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from eval.embeddings.store import EmbeddingStore
from eval.filtering.clusters import Clusters, nearest, sort
from eval.filtering.kept import Kept
from eval.filtering.others import digest, refuse_other_model
from eval.filtering.pool import BLOCK, Flags, Pool
from eval.filtering.rules import Rule, Verdict, nothing
from eval.filtering.stored import Stored
from vlp.errors import UserError

REASON = "unlike the reference"


@dataclass(frozen=True)
class Reference(Clusters, Rule):
    """Keeps the clusters of the shards' pictures that a reference picture falls into.

    As in the paper: the pictures of the shards are clustered, the nearest centre of each reference picture is looked up
    (there of ImageNet's training pictures), and the samples of these clusters stay.
    """

    scored: ClassVar[str] = "cosine to the centre of the cluster"

    like: str = ""
    """folder of embeddings of the reference pictures, by the same model (`vlp embed`)"""

    def refuse(self, pool: Pool) -> None:
        """No reference, or one of another model."""
        if not self.like:
            raise UserError("the rule reference needs like=FOLDER: embeddings of pictures that samples should be like")
        refuse_other_model(EmbeddingStore.open(Path(self.like)), pool.stored)

    def inputs(self) -> Mapping[str, Any]:
        """The reference."""
        return {"like": digest(EmbeddingStore.open(Path(self.like)))} if self.like else {}

    def judge(self, pool: Pool, stays: Flags, kept: Kept) -> Verdict:
        """Clusters that no reference picture is nearest to are left out."""
        at = sort(pool, stays, kept, self)
        stored, hit = Stored(EmbeddingStore.open(Path(self.like))), np.zeros(len(at.centres), bool)
        for start in range(0, len(stored), BLOCK):
            some = np.arange(start, min(start + BLOCK, len(stored)))
            hit[nearest(stored.vectors(some), at.centres)] = True
        reason, score, like = nothing(len(pool))
        score[at.numbers] = at.near
        reason[at.numbers[~hit[at.cell]]] = 1
        about = {"clusters": len(hit), "clusters_of_the_reference": int(hit.sum()), "reference": len(stored)}
        return Verdict((REASON,), reason, score, like, about)
