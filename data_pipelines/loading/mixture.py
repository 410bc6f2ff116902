"""How much of each source an epoch draws, and in what turns: exact shares, evenly spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlp.errors import UserError


def draws_by_weight(sizes: Sequence[int], weights: Sequence[float], total: int) -> list[int]:
    """Samples of each source in an epoch of `total`, in proportion to `weights` (largest remainders; sums to `total`).

    >>> draws_by_weight([1000, 10], [3, 1], 100)
    [75, 25]
    """
    _check(sizes, weights)
    exact = [total * w / sum(weights) for w in weights]
    draws = [int(x) for x in exact]
    for s in sorted(range(len(draws)), key=lambda s: draws[s] - exact[s])[: total - sum(draws)]:
        draws[s] += 1
    return draws


def draws_by_factor(sizes: Sequence[int], factors: Sequence[float]) -> list[int]:
    """Samples of each source in an epoch when each is passed through `factor` times (1.5: one pass and a half).

    >>> draws_by_factor([1000, 10], [1, 2.5])
    [1000, 25]
    """
    _check(sizes, factors)
    return [round(n * f) for n, f in zip(sizes, factors, strict=True)]


def _check(sizes: Sequence[int], weights: Sequence[float]) -> None:
    if len(sizes) != len(weights):
        raise UserError(f"a mixture of {len(sizes)} sources got {len(weights)} weights: give one for each")
    if any(not (0 <= w < float("inf")) for w in weights) or not sum(weights):
        raise UserError(f"the weights of a mixture are {list(weights)}: expected numbers of 0 or more, not all 0")
    if any(w and not n for n, w in zip(sizes, weights, strict=True)):
        raise UserError("a source of the mixture has a weight but no samples")


def interleave(shares: Sequence[int]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """The turns of sources that have `shares` samples each: for each turn the source, and how often it came before.

    Webster's sequence: the k-th sample of a source with n of them is due at (k + 1/2) / n. After any number of turns
    each source is within one sample (for two sources; S - 1 for S) of its exact share.

    >>> interleave([4, 2])[0].tolist()
    [0, 1, 0, 0, 1, 0]
    """
    source = np.concatenate([np.full(n, s, np.uint16) for s, n in enumerate(shares)])
    nth = np.concatenate([np.arange(n, dtype=np.int64) for n in shares])
    due = np.concatenate([(np.arange(n) + 0.5) / n for n in shares if n])
    order = np.lexsort((source, due))
    return source[order], nth[order]
