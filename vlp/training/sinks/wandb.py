"""Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlp.errors import UserError
from vlp.training.sinks import Row


class Wandb:
    """A run of Weights & Biases, named after the run's folder, which a resumed run continues."""

    position = 0

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

    def back(self, position: int) -> None:
        """Weights & Biases leaves out rows of steps that it has had."""

    def close(self) -> None:
        """End the run."""
        self.run.finish()
