"""Writing checkpoints beside the training: state is copied to memory, and goes to disk in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from vlp.distributed.background import BackgroundGroup
from vlp.distributed.tensor_parts import PartsPlan
from vlp.files import full_disk
from vlp.training.checkpoints.manifest import FileFacts, Manifest
from vlp.training.checkpoints.place import Place


@dataclass(frozen=True)
class Job:
    """One checkpoint to be written."""

    name: str
    tensors: Mapping[str, Tensor]
    """the parts of this rank, which nobody changes meanwhile"""
    manifest: Manifest
    """without files; rank 0's is the one that is written"""
    done: Callable[[], None]
    """called on rank 0 when it is a checkpoint"""
    left: Callable[[], str]
    """what is left where the disk is full"""


class Writer:
    """At most one checkpoint is being written at a time. All ranks make the same calls."""

    def __init__(self, place: Place, group: BackgroundGroup) -> None:
        self.place, self.group = place, group
        self.plan = PartsPlan(group)
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.seconds = 0.0
        """how long the training has waited for checkpoints"""

    @property
    def busy(self) -> bool:
        """Whether this rank is still writing. Raises what went wrong."""
        if self.thread is not None and not self.thread.is_alive():
            self.wait()
        return self.thread is not None

    def wait(self) -> None:
        """Until this rank has written. Raises what went wrong, UserError for a full disk or a store that gives up."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def start(self, job: Job) -> None:
        """Copy `job.tensors` (those of the whole run) and begin to write them (all ranks take part)."""
        begun = time.monotonic()
        self.wait()
        copies, table = self.plan.copied(job.tensors)
        job = replace(job, tensors=copies, manifest=replace(job.manifest, table=table))
        self.thread = threading.Thread(target=self._run, args=(job,), name="checkpoint", daemon=True)
        self.thread.start()
        self.seconds += time.monotonic() - begun

    def _run(self, job: Job) -> None:
        try:
            with full_disk(Path(self.place.url) / job.name, job.left):
                self._write(job)
        except BaseException as error:  # the training raises it, at its next step
            self.error = error
            self.place.discard(job.name)

    def _write(self, job: Job) -> None:
        file = self.place.begin(job.name) / file_name(self.group.rank)
        save_file(dict(job.tensors), file)
        facts = FileFacts.of(file)
        self.place.publish(job.name, file)
        files = self.group.at_rank_0(facts)  # nobody is left out: all parts are safe
        if self.group.rank == 0:
            self.place.finish(job.name, replace(job.manifest, files=files).text())
            job.done()
        self.group.everyones(None)  # whoever has waited for this rank knows that there is a checkpoint


def file_name(rank: int) -> str:
    """The file with what a rank wrote.

    >>> file_name(3)
    'rank-00003.safetensors'
    """
    return f"rank-{rank:05d}.safetensors"
