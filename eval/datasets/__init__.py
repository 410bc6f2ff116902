"""Datasets that models are measured on, one layout a file: its samples, its classes and templates, its protocol."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from annotated_types import Ge

from vlp.errors import UserError

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger
    from data_pipelines.sample import Sample

SAMPLES_AT_ONCE = 256
Block = tuple[str, "list[Sample]"]
"""Where some samples lie (a tar, a folder, a file), and these, up to SAMPLES_AT_ONCE of them, not decoded"""


@dataclass(frozen=True)
class Protocol:
    """How a dataset is measured, as its makers say.

    A sample's class stands in its metadata under `label`, by one of `labels` or by its number (of a list of classes
    where `multi_label`); `negatives` there are false captions, `pair` is an id that the two samples of an item share.
    """

    classes: tuple[str, ...] = ()
    """names that go into prompts, in the order of the labels; none: as the samples name them"""
    templates: tuple[str, ...] = ()
    """texts with {} where the class goes; none: the task's own"""
    label: str = ""
    """metadata field of the class; "": as the task says"""
    multi_label: bool = False
    """whether a sample has a list of classes"""
    expected: int | None = None
    """number of samples; None: nobody says"""
    metric: str = ""
    """the metric that stands for the dataset, as tasks call it, such as mean_per_class_recall; "": the task's own"""
    groups: str = ""
    """metadata field of the group of a sample, such as its region; "": there are none"""
    except_groups: tuple[int, ...] = ()
    """groups that are not compared with the others, such as "elsewhere" """
    source: str = ""
    """where to get the dataset, as a sentence goes on after "get it from" """

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """(C,) the classes by names of which no two are equal: ImageNet has two that are called "missile".

        >>> Protocol(classes=("missile", "sloth", "missile")).labels
        ('missile', 'sloth', 'missile (2)')
        """
        counts = Counter(self.classes)
        seen: set[str] = set()
        labels = []
        for number, name in enumerate(self.classes):
            labels.append(f"{name} ({number})" if counts[name] > 1 and name in seen else name)
            seen.add(name)
        return tuple(labels)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Base of all datasets; the name of its file is the name of the layout."""

    component_package: ClassVar[str] = "eval.datasets"

    root: str = ""
    """where it lies; a relative path is one under --root, where that is given"""
    count: Annotated[int, Ge(-1)] = 0
    """number of samples that it should have; 0: as its makers say; -1: any number"""

    @property
    def spec(self) -> str:
        """The dataset in one word, for reports and errors."""
        return self.root or type(self).__module__.rpartition(".")[2]

    @property
    def protocol(self) -> Protocol:
        """How it is measured. Raises UserError if the files that say so are missing or broken."""
        return Protocol()

    @property
    def expected(self) -> int | None:
        """Number of samples that it should have, None where nobody says."""
        return (self.count or self.protocol.expected) if self.count >= 0 else None

    @property
    def asks(self) -> str:
        """What it asks of a model, in a sentence; "" where nobody says."""
        return ""

    @classmethod
    def at(cls, folder: Path) -> Self | None:
        """The dataset in a folder that is of this layout by its looks; None if it is of none or another."""
        return None

    def missing(self) -> str:
        """What is not there, where it was looked for and where to get it, as one sentence; "" if all is there."""
        raise NotImplementedError

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """Every sample once, in an order that is the same at every call, some at a time.

        Single samples that cannot be read are left out and counted in `skip`. Raises UserError for a dataset that is
        missing, and for one that is damaged or cut short, unless `skip_damaged`.
        """
        raise NotImplementedError

    def read(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """The same as `blocks`, counted. Raises UserError also for another number of samples than expected.

        With `skip_damaged` any number goes.
        """
        if reason := self.missing():
            raise UserError(reason)
        count = 0
        for place, samples in self.blocks(skip, skip_damaged=skip_damaged):
            count += len(samples)
            yield place, samples
        if self.expected not in (None, count) and not skip_damaged:
            lost = ", ".join(f"{number:,} {reason}" for reason, number in skip.by_reason().items())
            raise UserError(
                f"{self.spec} has {count:,} samples{f' ({lost})' if lost else ''}, but {self.expected:,} are expected: "
                "get it again, or measure what is there: --skip-damaged"
            )

    def sha256(self) -> str:
        """One sha256 (hex) of all that is read; "" where nothing certain is known."""
        raise NotImplementedError

    def below(self, folder: str) -> Self:
        """The same dataset, a relative `root` of which lies in `folder`; "" leaves it as it is."""
        if not folder or os.path.isabs(self.root):
            return self
        return replace(self, root=str(Path(folder).expanduser() / self.root))
