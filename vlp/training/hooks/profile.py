"""A trace of some steps by torch's profiler, in the run's folder."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from vlp.files import write_whole

SKIPPED = 5  # steps before the trace: the first ones allocate, compile and fill queues


class Trace:
    """A context in which `step`, called after each step, ends one; after `steps` of them RUN/trace.json is written.

    It is a file for chrome://tracing and ui.perfetto.dev. 0 steps, and ranks other than 0, write nothing.
    """

    def __init__(self, steps: int, folder: Path) -> None:
        self.path = folder / "trace.json"
        self._profiler: Any = None
        if steps:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(
                activities=activities,
                schedule=torch.profiler.schedule(wait=SKIPPED - 1, warmup=1, active=steps, repeat=1),
                on_trace_ready=lambda done: write_whole(self.path, lambda path: done.export_chrome_trace(str(path))),
                record_shapes=True,
            )

    def step(self) -> None:
        """A step is done."""
        if self._profiler is not None:
            self._profiler.step()

    def __enter__(self) -> Trace:
        if self._profiler is not None:
            self._profiler.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profiler is not None:
            self._profiler.__exit__(kind, error, trace)
