"""Pairs with weights of an objective's own."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses._engine.among import Among


def reweighted(e: Embeddings, among: Among, weights: Tensor) -> tuple[Embeddings, Tensor]:
    """The embeddings with `weights` [b] too, and the mean of these [], by the weights that pairs had.

    An objective of the embeddings is divided by the sum of all weights; times that mean it is mean_i weights_i loss_i.
    """
    given = torch.ones_like(weights) if e.weights is None else e.weights.to(weights.dtype)
    kept, every = among.total(torch.stack([(weights * given).sum(), given.sum()]))
    return replace(e, weights=weights * given), kept / every
