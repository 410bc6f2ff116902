"""scikit-learn's digits: 1,797 scans of 8 x 8 pixels, a real dataset that comes with a package."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines.sample import Sample
from eval.datasets import Block, Dataset, Protocol
from eval.datasets._reading import png, together
from eval.prompts.class_names import classes, first_names
from eval.prompts.templates import texts_of_set

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger

SOURCE = "scikit-learn (sklearn.datasets.load_digits)"


@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """Handwritten digits, white on black (Alpaydin and Kaynak 1998, the UCI repository's optdigits)."""

    @property
    def protocol(self) -> Protocol:
        """Ten classes, by MNIST's names and template."""
        names = tuple(first_names(classes("mnist")))
        return Protocol(names, texts_of_set("mnist"), label="class", expected=1_797, source=SOURCE)

    def missing(self) -> str:
        """The package."""
        there = importlib.util.find_spec("sklearn") is not None
        return "" if there else "the digits need the package scikit-learn; install it with: pip install 'vlp[eval]'"

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """The scans in the package's order, as PNG: its 17 levels to 0 ... 255."""
        yield from together("digits", self._samples())

    def sha256(self) -> str:
        """Of the pictures as they are given out, and of their classes."""
        digest = hashlib.sha256()
        for sample in self._samples():
            digest.update(sample.image + sample.metadata["class"].encode())
        return digest.hexdigest()

    def _samples(self) -> Iterator[Sample]:
        from sklearn.datasets import load_digits

        scans, labels = load_digits(), self.protocol.labels
        for number, (scan, digit) in enumerate(zip(scans.images, scans.target, strict=True)):
            picture = png(np.rint(scan * 255 / 16).astype(np.uint8))
            yield Sample(f"digit_{number:04d}", *picture, {}, {"class": labels[int(digit)]})
