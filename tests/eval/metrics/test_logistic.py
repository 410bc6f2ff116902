"""Logistic regression, against the conditions of its minimum and Newton's method; the search for its setting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.metrics.logistic import Linear, fit, objective, search


def problem(seed: int = 0, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, 60)
    vectors = rng.normal(size=(60, 5)) + np.eye(classes, 5)[labels]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels


@pytest.mark.parametrize("c", [1e-5, 1e-3, 1.0, 1e3])
def test_the_gradient_is_zero_at_the_minimum_and_every_step_away_is_worse(c: float) -> None:
    vectors, labels = problem()
    linear = fit(vectors, labels, classes=3, c=c, tolerance=1e-9)
    x, y = torch.from_numpy(vectors).double(), torch.from_numpy(labels)
    free = Linear(linear.weight.clone().requires_grad_(), linear.bias.clone().requires_grad_())
    least = objective(free, x, y, c)
    least.backward()
    assert max(free.weight.grad.abs().max(), free.bias.grad.abs().max()) < 1e-5
    for seed in range(5):
        torch.manual_seed(seed)
        away = Linear(linear.weight + 0.1 * torch.randn(5, 3), linear.bias)
        assert objective(away, x, y, c) > least.detach()


def test_two_classes_give_what_newton_gives() -> None:
    """Of two classes with weights ±w/2, the penalty is |w|²/2 of w/√2 each: scikit-learn's binary form at c/2."""
    vectors, labels = problem(classes=2)
    x = np.c_[vectors.astype(float), np.ones(60)]
    c, w = 2.0, np.zeros(6)
    penalty = np.diag([1 / (2 * c)] * 5 + [0])  # |w/2|² + |w/2|² over 2c is |w|² / (4c)
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ w))
        gradient = x.T @ (p - labels) + penalty @ w
        w -= np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]) + penalty, gradient)
    linear = fit(vectors, labels, classes=2, c=c, tolerance=1e-9)
    assert np.asarray(linear.weight[:, 1] - linear.weight[:, 0]) == pytest.approx(w[:5], abs=1e-4)
    assert float(linear.bias[1] - linear.bias[0]) == pytest.approx(w[5], abs=1e-4)


def test_the_usual_tolerance_is_close_in_single_precision_too() -> None:
    vectors, labels = problem(2)
    exact = fit(vectors, labels, classes=3, c=1.0, tolerance=1e-9).scores(vectors)
    usual = fit(vectors.astype(np.float32), labels, classes=3, c=1.0).scores(vectors.astype(np.float32))
    assert usual == pytest.approx(exact, abs=0.02)


def test_where_it_begins_does_not_matter() -> None:
    vectors, labels = problem(1)
    first = fit(vectors, labels, classes=3, c=10.0, tolerance=1e-9)
    again = fit(vectors, labels, classes=3, c=10.0, tolerance=1e-9, start=fit(vectors, labels, classes=3, c=1e-2))
    assert np.asarray(again.weight) == pytest.approx(np.asarray(first.weight), abs=1e-3)


@pytest.mark.parametrize("peak", [-6.0, -2.6, 0.0, 3.3, 6.0])
def test_the_search_ends_within_a_sixteenth_of_a_decade_of_a_single_peak(peak: float) -> None:
    best, tried = search(lambda c: -abs(np.log10(c) - peak))
    assert abs(np.log10(best) - peak) <= 0.125 / 2 + 1e-9
    assert len(tried) <= 15


def test_of_equal_scores_the_strongest_regularisation_wins() -> None:
    assert search(lambda _: 0.5)[0] == pytest.approx(1e-6)
