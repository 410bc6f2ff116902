"""The screen: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vlp.training.sinks import Row

if TYPE_CHECKING:
    from rich.progress import Progress


class Bar:
    """A progress bar with loss, rate and time to go, on a terminal."""

    position = 0

    def __init__(self, total: int, done: int) -> None:
        from rich import progress

        self.bar: Progress = progress.Progress(
            progress.TextColumn("[bold]training"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TextColumn("loss {task.fields[loss]:.3f} · {task.fields[rate]:,.0f} pairs/s ·"),
            progress.TimeRemainingColumn(elapsed_when_finished=True),
        )
        self.task = self.bar.add_task("training", total=total, completed=done, loss=float("nan"), rate=0.0)
        self.bar.start()

    def moved(self, samples: int, row: Row) -> None:
        """Move the bar; rich redraws it ten times a second at most."""
        self.bar.update(self.task, completed=samples, loss=row["loss"], rate=row["samples_per_second"])

    def record(self, row: Row) -> None:
        """Print the numbers of an evaluation above the bar."""
        if text := evaluation_text(row):
            self.bar.console.print(text, highlight=False, markup=False)

    def back(self, position: int) -> None:
        """The next numbers are of where the run went back to."""

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.stop()


class Lines:
    """A line every few seconds, where there is no terminal."""

    position = 0

    def __init__(self, total: int, every: float = 10.0) -> None:
        self.total, self.every, self.next = total, every, 0.0

    def moved(self, samples: int, row: Row) -> None:
        """Print how far it is, if the last line is old enough or the end is reached."""
        now = time.monotonic()
        if now < self.next and samples < self.total:
            return
        self.next = now + self.every
        left = (self.total - samples) / max(row["samples_per_second"], 1e-9)
        print(
            f"{samples:,} of {self.total:,} pairs ({samples / self.total:.0%}) · loss {row['loss']:.3f} · "
            f"{row['samples_per_second']:,.0f} pairs/s · {clock(left)} to go",
            flush=True,
        )

    def record(self, row: Row) -> None:
        """Print the numbers of an evaluation."""
        if text := evaluation_text(row):
            print(text, flush=True)

    def back(self, position: int) -> None:
        """The next numbers are of where the run went back to."""

    def close(self) -> None:
        """Nothing is open."""


def evaluation_text(row: Row) -> str:
    """An evaluation's numbers on one line; empty for a row of training numbers."""
    numbers = [f"{k} {v:.4f}" for k, v in row.items() if "/" in k]
    return f"at {int(row['samples']):,} pairs: " + " · ".join(numbers) if numbers else ""


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes: "4:07", "3 h 20 min"."""
    whole = int(seconds)
    return f"{whole // 60}:{whole % 60:02d}" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
