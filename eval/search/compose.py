"""Questions of several parts: more like this, less like that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.errors import UserError

FEWEST = 1e-6  # norm of a sum of weighted unit vectors, below which its direction is rounding


def composed(vectors: NDArray[Any], weights: Sequence[float]) -> NDArray[np.float32]:
    """The direction of sum_i w_i v_i of unit vectors [N, D]: one unit vector [D].

    >>> composed(np.eye(2), [3.0, -4.0]).tolist()
    [0.6000000238418579, -0.800000011920929]

    Raises UserError where the parts cancel each other, so that nothing is asked for.
    """
    total = np.asarray(weights, np.float64) @ np.asarray(vectors, np.float64)
    norm = float(np.linalg.norm(total))
    if not np.isfinite(norm) or norm < FEWEST:
        raise UserError("the parts of the question cancel each other; change one, or its weight")
    return np.asarray(total / norm, np.float32)
