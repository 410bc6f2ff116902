"""mAP of several classes a picture, against the definition and a case by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.average_precision import average_precision_per_class, average_precision_reference


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_average_precision_per_class_equals_the_reference(seed: int) -> None:
    """Whole-number embeddings, so that ties are frequent and exact; some classes have no picture."""
    rng = np.random.default_rng(seed)
    image, classes = rng.integers(-1, 2, (9, 3)).astype(float), rng.integers(-1, 2, (4, 3)).astype(float)
    truth = rng.random((9, 4)) < 0.3
    truth[0, 0] = True
    rows, labels = np.nonzero(truth)
    found = average_precision_per_class(image, classes, rows, labels)
    scores = image @ classes.T
    for c in range(4):
        assert found[c] == pytest.approx(average_precision_reference(scores[:, c], truth[:, c]))


def test_a_case_by_hand() -> None:
    """Scores 4, 3, 2, 1; the first, third and fourth are right: (1/1 + 2/3 + 3/4) / 3."""
    image = np.array([[4.0], [3.0], [2.0], [1.0]])
    found = average_precision_per_class(image, np.ones((1, 1)), np.array([0, 2, 3]), np.zeros(3, np.int64))
    assert found == pytest.approx([(1 + 2 / 3 + 3 / 4) / 3])
