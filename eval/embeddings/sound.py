"""Vectors that no number can be made of: refused with the model and the first picture or text that has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.errors import UserError
from vlp.models.release import Release

UNIT = 1e-3  # a length this far from 1 is no rounding


def refuse_broken(vectors: NDArray[Any], model: str, what: Callable[[int], str]) -> None:
    """Raise UserError if one of `vectors` [n, D] is not finite; `what` says which picture or text a row is of."""
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise UserError(
            f"the model {model} gives NaN or infinity for {len(broken):,} of {len(vectors):,}, first for "
            f"{what(int(broken[0]))}: its weights or its precision are broken; take another checkpoint, or float32"
        )


def refuse_unlike_unit(vectors: NDArray[Any], model: str, what: Callable[[int], str]) -> None:
    """Raise UserError if one of `vectors` [n, D] is not finite or has not length 1; `what` says what a row is of."""
    refuse_broken(vectors, model, what)
    norms = np.linalg.norm(vectors, axis=1)
    long = np.flatnonzero(np.abs(norms - 1) > UNIT)
    if len(long):
        row = int(long[0])
        raise UserError(
            f"the model {model} gives a vector of length {norms[row]:.3g}, not 1, for {what(row)} and "
            f"{len(long) - 1:,} others: its weights or its precision are broken; take another checkpoint, or float32"
        )


def refuse_unlike_widths(release: Release) -> None:
    """Raise UserError if a model gives pictures and texts of different width, which nobody can compare."""
    import torch

    size = release.transform.size
    image = release.embed_pixels(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    text = Release.embed_texts(release, "a")  # by this rank alone
    if image.shape[1] != text.shape[1]:
        raise UserError(
            f"the model {release.name} gives pictures {image.shape[1]} numbers and texts {text.shape[1]}, "
            "so they cannot be compared; give a model whose two towers end in one width"
        )
