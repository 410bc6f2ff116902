"""What datasets of handwritten digits share that come inside a package."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from data_pipelines.sample import Sample
from eval.datasets import Block, Dataset, Protocol
from eval.datasets._reading import png, together
from eval.prompts.class_names import classes, first_names
from eval.prompts.templates import texts_of_set

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class Scans(Dataset):
    """Base: grey pictures of the ten digits, by MNIST's names and template."""

    package: ClassVar[tuple[str, str]]
    """the package as it is installed, and as it is imported"""
    source: ClassVar[str]
    """which function of it gives them"""
    name: ClassVar[str]
    """of the dataset, in messages and keys"""
    count_expected: ClassVar[int]

    def scans(self) -> Iterator[tuple[NDArray[np.uint8], int]]:
        """Picture [H, W] and digit of each, in the package's order."""
        raise NotImplementedError

    @property
    def protocol(self) -> Protocol:
        """Ten classes, by CLIP's names and template of MNIST."""
        names = tuple(first_names(classes("mnist")))
        return Protocol(names, texts_of_set("mnist"), label="class", expected=self.count_expected, source=self.source)

    def missing(self) -> str:
        """The package."""
        installed, imported = self.package
        there = importlib.util.find_spec(imported) is not None
        return "" if there else f"{self.name} needs the package {installed}; install it with: pip install 'vlp[eval]'"

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """The scans in the package's order, as PNG."""
        yield from together(self.name, self._samples())

    def sha256(self) -> str:
        """Of the pictures as they are given out, and of their classes."""
        digest = hashlib.sha256()
        for sample in self._samples():
            digest.update(sample.image + sample.metadata["class"].encode())
        return digest.hexdigest()

    def _samples(self) -> Iterator[Sample]:
        labels = self.protocol.labels
        for number, (scan, digit) in enumerate(self.scans()):
            yield Sample(f"{self.name}_{number:04d}", *png(scan), {}, {"class": labels[digit]})
