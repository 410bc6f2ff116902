"""Fingerprints of many pictures, compared with those of many others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data_pipelines.picture_hash import ALIKE_BITS, ALIKE_COLOUR, Fingerprint
from data_pipelines.writing.repeats import BANDS, bands


@dataclass
class Hashes:
    """Fingerprints of N pictures, to be compared with others without comparing each with each.

    Of alike hashes at least one of BANDS parts is equal (there are more parts than bits that may differ).
    """

    bits: NDArray[np.uint64]  # [N, 4]
    colour: NDArray[np.float64]  # [N, 3]
    bands: NDArray[np.int64]  # [N, BANDS]

    @classmethod
    def of(cls, prints: Sequence[Fingerprint]) -> Hashes:
        """Those of these pictures."""
        packed = b"".join(one.bits.to_bytes(32, "big") for one in prints)
        parts = [bands(one.bits) for one in prints]
        return cls(
            np.frombuffer(packed, np.uint64).reshape(-1, 4),
            np.array([one.mean for one in prints], np.float64).reshape(-1, 3),
            np.array(parts, np.int64).reshape(-1, BANDS),
        )

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each part in order, and the rows that it comes from: [BANDS, N] both."""
        rows = np.argsort(self.bands.T, axis=1, kind="stable")
        return np.take_along_axis(self.bands.T, rows, axis=1), rows

    def alike(self, others: Hashes) -> set[tuple[int, int]]:
        """The pairs (row of these, row of `others`) that Fingerprint.alike would call alike."""
        pairs = set()
        for values, rows, own in zip(*self._sorted, others.bands.T, strict=True):
            starts, stops = (np.searchsorted(values, own, side) for side in ("left", "right"))  # type: ignore[arg-type]
            for other in np.flatnonzero(stops > starts):
                some = rows[starts[other] : stops[other]]
                apart = np.bitwise_count(self.bits[some] ^ others.bits[other]).sum(axis=1, dtype=np.int64)
                near = (np.abs(self.colour[some] - others.colour[other]) <= ALIKE_COLOUR).all(axis=1)
                pairs |= {(int(row), int(other)) for row in some[(apart <= ALIKE_BITS) & near]}
        return pairs
