"""Multinomial logistic regression on frozen embeddings, and the search for its regularisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from eval.metrics.ranking import Floats, Ints

DECADES = (-6, -4, -2, 0, 2, 4, 6)  # where the search begins, powers of ten
FINEST = 0.125  # of a decade: the search ends at eight steps a decade
MOST_STEPS = 1000


TOLERANCE = 1e-4  # of the gradient, as scikit-learn's


@dataclass(frozen=True)
class Linear:
    """Weights of a linear classifier: scores are x @ weight + bias."""

    weight: Tensor  # [D, C]
    bias: Tensor  # [C]

    def scores(self, vectors: Floats) -> Floats:
        """[N, C] scores of vectors [N, D]."""
        return np.asarray(torch.from_numpy(np.asarray(vectors)).to(self.weight.dtype) @ self.weight + self.bias)


def objective(linear: Linear, vectors: Tensor, labels: Tensor, c: float) -> Tensor:
    """Mean cross-entropy + |weight|² / (2 · c · N); the bias is not regularised.

    It is that of scikit-learn's LogisticRegression(C=c), divided by c · N.
    """
    loss = cross_entropy(vectors @ linear.weight + linear.bias, labels)
    return loss + (linear.weight**2).sum() / (2 * c * len(vectors))


def fit(
    vectors: Floats,
    labels: Ints,
    *,
    classes: int,
    c: float,
    start: Linear | None = None,
    tolerance: float = TOLERANCE,
) -> Linear:
    """The minimum of `objective`, which has one, by L-BFGS with a line search, in the precision of the vectors.

    vectors: [N, D]; labels: [N]; c: the inverse of the regularisation; start: where to begin, which changes the time
    alone. What is searched is scaled so that weights and bias bend the objective alike: strong regularisation would
    otherwise take hundreds of steps.
    """
    x, y = torch.from_numpy(np.asarray(vectors)), torch.from_numpy(labels)
    scale, bias_scale = min(1.0, c * len(x)) ** 0.5, classes**0.5
    first = start or Linear(torch.zeros(x.shape[1], classes, dtype=x.dtype), torch.zeros(classes, dtype=x.dtype))
    free = Linear((first.weight / scale).requires_grad_(), (first.bias / bias_scale).requires_grad_())
    optimizer = torch.optim.LBFGS(
        [free.weight, free.bias],
        max_iter=MOST_STEPS,
        max_eval=2 * MOST_STEPS,
        tolerance_grad=tolerance,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(Linear(free.weight * scale, free.bias * bias_scale), x, y, c)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Linear(free.weight.detach() * scale, free.bias.detach() * bias_scale)


def search(score: Callable[[float], float]) -> tuple[float, dict[float, float]]:
    """The regularisation c of the highest score, and the score of every c that was tried.

    As CLIP does (Radford et al. 2021, appendix A.3): from 10^-6, 10^-4, ..., 10^6 on, the interval around the best is
    halved until there are eight steps a decade. Of equal scores the strongest regularisation wins.

    >>> best, tried = search(lambda c: -abs(np.log10(c) - 1.3))
    >>> round(float(np.log10(best)), 3), len(tried)
    (1.25, 15)
    """
    tried = {float(power): score(10.0**power) for power in DECADES}
    step = float(DECADES[1] - DECADES[0])
    while step > FINEST:
        step /= 2
        best = _best(tried)
        for power in (best - step, best + step):
            if power not in tried and DECADES[0] <= power <= DECADES[-1]:
                tried[power] = score(10.0**power)
    return 10.0 ** _best(tried), {10.0**power: value for power, value in sorted(tried.items())}


def _best(tried: dict[float, float]) -> float:
    return min(tried, key=lambda power: (-tried[power], power))
