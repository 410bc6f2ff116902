"""scikit-learn's digits: 1,797 scans of 8 x 8 pixels, a real dataset that comes with a package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.datasets._scans import Scans


@dataclass(frozen=True, kw_only=True)
class Digits(Scans):
    """Handwritten digits, white on black (Alpaydin and Kaynak 1998, the UCI repository's optdigits)."""

    package = ("scikit-learn", "sklearn")
    source = "scikit-learn (sklearn.datasets.load_digits)"
    name = "digits"
    count_expected = 1_797

    def scans(self) -> Iterator[tuple[NDArray[np.uint8], int]]:
        """Their 17 levels to 0 ... 255."""
        from sklearn.datasets import load_digits

        every = load_digits()
        for scan, digit in zip(every.images, every.target, strict=True):
            yield np.rint(scan * 255 / 16).astype(np.uint8), int(digit)
