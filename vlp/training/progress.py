"""Numbers of a run -> console, metrics.jsonl, tensorboard, Weights & Biases."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vlp.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Row = Mapping[str, float]


class Sink(Protocol):
    """One place where numbers go."""

    def moved(self, samples: int, row: Row) -> None:
        """`samples` pairs are done; `row` has the newest numbers."""

    def record(self, row: Row) -> None:
        """Keep a row, which has "step" and "samples" among its numbers."""

    def close(self) -> None:
        """Nothing more will come."""


class Progress:
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

    @property
    def position(self) -> int:
        """Bytes of metrics.jsonl so far: where a resumed run cuts it off."""
        return sum(s.position for s in self.sinks if isinstance(s, JsonLines))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        for sink in self.sinks:
            sink.close()


class JsonLines:
    """metrics.jsonl: one JSON object per row, on disk when `record` returns."""

    def __init__(self, path: Path, position: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("ab")
        # rows after the checkpoint that a run resumes from will come again
        self.file.truncate(min(position, self.file.tell()))
        self.file.seek(0, 2)

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self.file.tell()

    def moved(self, samples: int, row: Row) -> None:
        """Only rows are kept here."""

    def record(self, row: Row) -> None:
        """One more line. NaN and infinity, which JSON lacks, become null."""
        clean = {k: (v if math.isfinite(v) else None) for k, v in row.items()}
        self.file.write(json.dumps(clean).encode() + b"\n")
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class Bar:
    """A progress bar with loss, rate and time to go, on a terminal."""

    def __init__(self, total: int, done: int) -> None:
        from rich import progress

        self.bar: RichProgress = progress.Progress(
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
            self.bar.console.print(text, highlight=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.stop()


class Lines:
    """A line every few seconds, where there is no terminal."""

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

    def close(self) -> None:
        """Nothing is open."""


class Tensorboard:
    """Event files; rows of a part that is done again replace the old ones."""

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "tensorboard is not installed: pip install tensorboard, or set training.tensorboard to false"
            ) from None
        self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def moved(self, samples: int, row: Row) -> None:
        """Only rows are kept here."""

    def record(self, row: Row) -> None:
        """One point on each curve."""
        for key, value in row.items():
            if key != "step":
                self.writer.add_scalar(key if "/" in key else f"train/{key}", value, int(row["step"]))

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, named after the run's folder, which a resumed run continues."""

    def __init__(self, project: str, folder: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError(
                'training.wandb names a project, but it is not installed: pip install "vlp[wandb]", or leave it empty'
            ) from None
        self.run: Any = wandb.init(
            project=project, dir=str(folder), name=folder.name, id=folder.name, resume="allow", reinit="finish_previous"
        )

    def moved(self, samples: int, row: Row) -> None:
        """Only rows are kept here."""

    def record(self, row: Row) -> None:
        """One point on each curve."""
        self.run.log(dict(row), step=int(row["step"]))

    def close(self) -> None:
        """End the run."""
        self.run.finish()


def evaluation_text(row: Row) -> str:
    """An evaluation's numbers on one line; empty for a row of training numbers."""
    numbers = [f"{k} {v:.4f}" for k, v in row.items() if "/" in k]
    return f"at {int(row['samples']):,} pairs: " + " · ".join(numbers) if numbers else ""


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes: "4:07", "3 h 20 min"."""
    whole = int(seconds)
    return f"{whole // 60}:{whole % 60:02d}" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
