"""Where the numbers of a run go, one place a file: console, metrics.jsonl, tensorboard, Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

Row = Mapping[str, float]


class Sink(Protocol):
    """One place where numbers go."""

    @property
    def position(self) -> int:
        """Bytes of the file that a resumed run cuts off here; 0 where there is no such file."""
        ...

    def moved(self, samples: int, row: Row) -> None:
        """`samples` pairs are done; `row` has the newest numbers."""

    def record(self, row: Row) -> None:
        """Keep a row, which has "step" and "samples" among its numbers."""

    def back(self, position: int) -> None:
        """The run went back to where `position` was as it is given: later rows will come again."""

    def close(self) -> None:
        """Nothing more will come."""


class Sinks:
    """All sinks of rank 0; the other ranks have one without sinks, so the loop need not ask who it is."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = sinks

    def moved(self, samples: int, row: Row) -> None:
        """Tell every sink how far the run has come."""
        for sink in self.sinks:
            sink.moved(samples, row)

    def record(self, row: Row) -> None:
        """Give a row to every sink."""
        for sink in self.sinks:
            sink.record(row)

    def back(self, position: int) -> None:
        """The run went back to where `position` was what is given; rows after it will come again."""
        for sink in self.sinks:
            sink.back(position)

    @property
    def position(self) -> int:
        """Bytes of metrics.jsonl so far: where a resumed run cuts it off."""
        return sum(s.position for s in self.sinks)

    def __enter__(self) -> Sinks:
        return self

    def __exit__(self, *_: object) -> None:
        for sink in self.sinks:
            sink.close()
