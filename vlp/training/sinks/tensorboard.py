"""Tensorboard events."""

from __future__ import annotations

from pathlib import Path

from vlp.errors import UserError
from vlp.training.sinks import Row


class Tensorboard:
    """Event files; rows of a part that is done again replace the old ones."""

    position = 0

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

    def back(self, position: int) -> None:
        """Points of a step that comes again stand beside those of before."""

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()
