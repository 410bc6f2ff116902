"""metrics.jsonl: the record of a run that programs read."""

from __future__ import annotations

import json
import math
from pathlib import Path

from vlp.files import full_disk
from vlp.training.sinks import Row


class JsonLines:
    """metrics.jsonl: one JSON object per row, on disk when `record` returns."""

    def __init__(self, path: Path, position: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.file = path.open("ab", buffering=0)  # what a full disk refused must not be tried again at the end
        self.back(position)

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self.file.tell()

    def moved(self, samples: int, row: Row) -> None:
        """Only rows are kept here."""

    def record(self, row: Row) -> None:
        """One more line. NaN and infinity, which JSON lacks, become null. Raises UserError when the disk is full."""
        clean = {k: (v if math.isfinite(v) else None) for k, v in row.items()}
        line = json.dumps(clean).encode() + b"\n"
        with full_disk(self.path, lambda: "the checkpoints are still there"):
            while line:
                line = line[self.file.write(line) :]

    def back(self, position: int) -> None:
        """Cut off the rows after the checkpoint that the run goes on from: they will come again."""
        self.file.truncate(min(position, self.file.seek(0, 2)))
        self.file.seek(0, 2)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
