"""Vectors that no number can be made of: refused with the model and the first picture or text that has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.errors import UserError
from vlp.models.release import Release


def refuse_broken(vectors: NDArray[Any], model: str, what: Callable[[int], str]) -> None:
    """Raise UserError if one of `vectors` [n, D] is not finite; `what` says which picture or text a row is of."""
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise UserError(
            f"the model {model} gives NaN or infinity for {len(broken):,} of {len(vectors):,}, first for "
            f"{what(int(broken[0]))}: its weights or its precision are broken; take another checkpoint, or float32"
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
