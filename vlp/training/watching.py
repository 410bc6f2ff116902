"""What a row of metrics says of the machine: how long the step waited for data, memory, and what the data lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psutil
import torch

from vlp.batch import Batch
from vlp.training.peak import Utilisation


class Watching:
    """Hands batches over, and knows how long they were waited for."""

    def __init__(self, stream: Any, device: torch.device, utilisation: Utilisation | None = None) -> None:
        """`stream` gives batches for ever; where it has a `ledger`, that counts what is `lost`."""
        self.utilisation = utilisation
        self.batches: Iterator[Batch] = iter(stream)
        self.stream, self.device, self.process = stream, device, psutil.Process()
        self.waited = 0.0

    def next(self) -> Batch:
        """The next batch."""
        begun = time.perf_counter()
        batch = next(self.batches)
        self.waited += time.perf_counter() - begun
        return batch

    def row(self, row: dict[str, float]) -> dict[str, float]:
        """`row` with the seconds waited for data since the last one, memory, MFU, and samples lost here.

        The memory is the GPU's peak, or the process's own.
        """
        used = (
            torch.cuda.max_memory_allocated(self.device)
            if self.device.type == "cuda"
            else self.process.memory_info().rss
        )
        row |= {"seconds_waiting_for_data": round(self.waited, 3), "memory_mib": round(used / 2**20, 1)}
        self.waited = 0.0
        if self.utilisation is not None:
            row["mfu"] = round(self.utilisation.of(row["samples_per_second"]), 4)
        ledger = getattr(self.stream, "ledger", None)
        return row if ledger is None else {**row, "samples_lost": ledger.lost}
