"""The worst group and F1 against definitions by hand and against scikit-learn."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from sklearn.metrics import f1_score

from eval.metrics import groups as module
from eval.metrics.groups import f1_macro, measured, worst_group


def test_docstring_examples() -> None:
    assert doctest.testmod(module, extraglobs={"np": np}).failed == 0


@pytest.mark.parametrize("seed", range(5))
def test_f1_is_that_of_scikit_learn_over_the_classes_that_occur(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, said = rng.integers(0, 6, 40), rng.integers(0, 9, 40)
    expected = f1_score(labels, said, labels=np.unique(labels), average="macro", zero_division=0)
    assert f1_macro(labels, said)(np.ones((1, 40)))[0] == pytest.approx(expected)
    drawn = rng.multinomial(40, np.full(40, 1 / 40), size=3).astype(float)
    for weights, value in zip(drawn, f1_macro(labels, said)(drawn), strict=True):
        rows = np.repeat(np.arange(40), weights.astype(int))
        again = f1_score(labels[rows], said[rows], labels=np.unique(labels), average="macro", zero_division=0)
        assert value == pytest.approx(again)


def test_the_worst_group_is_the_least_mean() -> None:
    rng = np.random.default_rng(0)
    values, groups = rng.integers(0, 2, 60), rng.integers(0, 4, 60)
    expected = min(values[groups == group].mean() for group in range(4))
    value, (low, high) = measured(worst_group(values, groups), 60)
    assert value == pytest.approx(expected)
    assert low < value < high
    assert measured(worst_group(values, groups), 60) == (value, (low, high))  # repeats
    absent = np.where(groups == 2, 0.0, 1.0)[None]
    assert worst_group(values, groups)(absent)[0] == min(values[groups == group].mean() for group in (0, 1, 3))
