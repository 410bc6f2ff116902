"""The one progress bar of evaluation: done, rate and time to go, on stderr so that stdout stays data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from vlp.legible import plain


class Pace:
    """How fast things are done, from the beginning to the last of them."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()
        self.done = 0

    def advance(self, done: int) -> None:
        """So many things were done since the last call."""
        self.done += done
        self.last = time.monotonic()

    def words(self, total: int | None, unit: str) -> str:
        """Rate and time to go: "7 pictures/s · 0:12 to go"; "" before anything is done."""
        if not self.done:
            return ""
        rate = self.done / max(self.last - self.began, 1e-9)
        words = f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s"
        left = int(((total or self.done) - self.done) / rate)
        return f"{words} · {left // 60}:{left % 60:02d} to go" if left else words


class Advance(Protocol):
    """What moves a bar."""

    def __call__(self, done: int, *, more: int = 0) -> None:
        """`done` things were done since the last call; `more` than was thought are to be done in all."""


@contextmanager
def progress_bar(what: str, total: int | None, *, unit: str = "pictures", show: bool = True) -> Iterator[Advance]:
    """A bar to be advanced by calling what it gives, with the number of things done since the last call.

    show: False where another bar is on the screen already, such as that of training.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    pace = Pace()
    label = TextColumn("{task.description}", markup=False)
    rate = TextColumn("{task.fields[pace]}", style="cyan", markup=False)
    columns = (label, BarColumn(), MofNCompleteColumn(), rate)
    with Progress(*columns, console=Console(stderr=True), disable=not show) as progress:
        row = progress.add_task(plain(what, 60), total=total, pace="")

        def advance(done: int, *, more: int = 0) -> None:
            nonlocal total
            total = None if total is None else total + more
            pace.advance(done)
            progress.update(row, advance=done, total=total, pace=pace.words(total, unit))

        yield advance
