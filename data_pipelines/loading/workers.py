"""Processes that make rows, and the shared memory in which they hand over whole batches."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import tempfile
import time
import traceback
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, reduction
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch

from data_pipelines.loading.rows import PackedRows, RowReader, Rows, joined
from vlp.errors import UserError

MOST_DEATHS = 3
STALL_SECONDS = 900.0
PARENT_SECONDS = 2.0
Job = tuple[int, int]  # epoch, batch


@dataclass(frozen=True)
class Message:
    """What a worker sends: its rows of one batch, or why there are none."""

    job: Job
    result: PackedRows | Exception


class Arena:
    """Shared memory of S slots, each for the pictures of one batch; it has no name, so it cannot leak."""

    def __init__(self, slots: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.slots, self.shape, self.dtype = slots, shape, dtype
        self.slot_bytes = -(-int(np.prod(shape)) * dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
        self._handle = _anonymous_file()
        os.ftruncate(self._handle, slots * self.slot_bytes)
        self._memory = mmap.mmap(self._handle, slots * self.slot_bytes)

    def slot(self, i: int) -> np.ndarray[Any, Any]:
        """Slot `i` as an array [n, H, W, 3], or [n, V, H, W, 3], that owns nothing."""
        n = int(np.prod(self.shape))
        return np.frombuffer(self._memory, self.dtype, n, i * self.slot_bytes).reshape(self.shape)

    def __getstate__(self) -> dict[str, Any]:  # pickled only while a worker is started: its file goes along
        return {**self.__dict__, "_handle": reduction.DupFd(self._handle), "_memory": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._handle = state["_handle"].detach()
        self._memory = mmap.mmap(self._handle, self.slots * self.slot_bytes)

    def __del__(self) -> None:
        if isinstance(getattr(self, "_handle", None), int):
            os.close(self._handle)


def _anonymous_file() -> int:
    """A file without a name: in memory where the system can (the size of /dev/shm does not limit it), else on disk."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vlp-batches")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def work(pipe: connection.Connection, reader: RowReader, arena: Arena, rows: slice) -> None:
    """The life of a worker: jobs in, rows out, until the pipe is closed or the trainer is gone."""
    born_to = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer handles Ctrl-C, and closes the pipe
    torch.set_num_threads(1)
    try:
        while True:
            while not pipe.poll(PARENT_SECONDS):  # forked siblings have copies of the pipe: its end may not be seen
                if os.getppid() != born_to:
                    return
            epoch, batch, slot = pipe.recv()
            pictures = torch.from_numpy(arena.slot(slot)[rows]).movedim(-1, -3)
            result: PackedRows | Exception
            try:
                result = reader.read(epoch, batch, pictures).packed()
            except UserError as error:
                result = error
            except Exception:
                result = RuntimeError(f"a worker failed:\n{traceback.format_exc()}")
            pipe.send(Message((epoch, batch), result))
    except (EOFError, OSError):
        pass


@dataclass
class _Pending:
    """A batch in the making: its slot and what each worker has sent."""

    slot: int
    parts: dict[int, PackedRows | Exception] = field(default_factory=dict)  # by worker


@dataclass
class _Worker:
    process: BaseProcess
    pipe: connection.Connection
    reader: RowReader
    rows: slice
    shifts: dict[int, int]  # after the last batch it sent
    epoch: int
    deaths: int = 0  # since the last batch it sent


class Pool:
    """Workers that own fixed rows of each batch; batches come out in order, whole, without a copy.

    A worker that dies is started again at the batch it died in. The order of samples does not notice.
    """

    def __init__(self, readers: Sequence[RowReader], *, start: Job, prefetch: int, method: str) -> None:
        self._context: Any = get_context(method)
        if method == "forkserver":
            self._context.set_forkserver_preload(["data_pipelines.loading.workers"])
        n = sum(len(r.rows) for r in readers)
        recipe = readers[0].recipe
        *views, channels, height, width = recipe.shape
        self._arena = Arena(prefetch + 2, (n, *views, height, width, channels), recipe.probe.numpy().dtype)
        self._free = deque(range(prefetch + 2))
        self._prefetch, self._batches = prefetch, readers[0].order.batches
        self._next_job, self._pending = start, dict[Job, _Pending]()
        self.restarts = 0
        first, at = readers[0].rows.start, []
        for reader in readers:
            at.append(slice(reader.rows.start - first, reader.rows.stop - first))
        self._workers = [self._start(r, rows) for r, rows in zip(readers, at, strict=True)]
        self._closer = weakref.finalize(self, _close, self._workers)

    def _start(self, reader: RowReader, rows: slice) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(theirs, reader, self._arena, rows), daemon=True)
        try:
            process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"the transform or the tokenizer cannot be sent to worker processes ({error}): "
                "define it at the top of a module, or use workers = 0"
            ) from None
        theirs.close()
        return _Worker(process, ours, reader, rows, dict(reader.shifts), reader.epoch)

    def next(self) -> Rows:
        """The rows of the next batch.

        Raises what a worker raised, RuntimeError if workers keep dying or stop answering.
        """
        self._hand_out()
        job = next(iter(self._pending))
        pending = self._pending[job]
        quiet = time.monotonic()
        while len(pending.parts) < len(self._workers):
            heard = self._listen(timeout=5.0)
            quiet = time.monotonic() if heard else quiet
            if time.monotonic() - quiet > STALL_SECONDS:
                raise RuntimeError(f"no worker has answered for {STALL_SECONDS:.0f} s (epoch {job[0]}, batch {job[1]})")
        del self._pending[job]
        parts: list[PackedRows] = []
        for w in range(len(self._workers)):
            part = pending.parts[w]
            if isinstance(part, Exception):
                self.close()
                raise part
            parts.append(part)
        rows = joined(parts, self._pictures(pending.slot))
        self._hand_out()
        return rows

    def _hand_out(self) -> None:
        """Ask the workers for the batches to come, as far as there are free slots."""
        while self._free and len(self._pending) < self._prefetch + 1:
            job, slot = self._next_job, self._free.popleft()
            self._pending[job] = _Pending(slot)
            self._next_job = (job[0], job[1] + 1) if job[1] + 1 < self._batches else (job[0] + 1, 0)
            for worker in self._workers:
                self._send(worker, (*job, slot))

    @staticmethod
    def _send(worker: _Worker, message: tuple[int, int, int]) -> None:
        with contextlib.suppress(OSError):  # if it is dead, `_listen` will notice and ask its successor
            worker.pipe.send(message)

    def _listen(self, timeout: float) -> bool:
        """Take in what workers sent, and replace those that died; whether there was anything."""
        watched: dict[Any, int] = {}
        for w, worker in enumerate(self._workers):
            watched[worker.pipe] = watched[worker.process.sentinel] = w
        ready = connection.wait(list(watched), timeout)
        for w in sorted({watched[r] for r in ready}):
            worker = self._workers[w]
            try:
                while worker.pipe.poll():
                    self._take(w, worker.pipe.recv())
            except (EOFError, OSError, pickle.UnpicklingError):
                worker.process.join(5.0)
            if not worker.process.is_alive():
                self._replace(w)
        return bool(ready)

    def _take(self, w: int, message: Message) -> None:
        self._pending[message.job].parts[w] = message.result
        worker = self._workers[w]
        if not isinstance(message.result, Exception):
            worker.epoch, worker.shifts, worker.deaths = message.job[0], message.result.shifts, 0

    def _replace(self, w: int) -> None:
        """A new process for a dead worker, which goes on where the last batch it sent ended."""
        dead = self._workers[w]
        dead.pipe.close()
        if dead.deaths + 1 > MOST_DEATHS:
            raise RuntimeError(
                f"worker {w} died {dead.deaths + 1} times in the same batch (exit code {dead.process.exitcode}; "
                "-9 is what the kernel sends when memory runs out: lower workers, prefetch or cache_bytes)"
            )
        dead.reader.epoch, dead.reader.shifts = dead.epoch, dict(dead.shifts)
        new = self._start(dead.reader, dead.rows)
        new.deaths = dead.deaths + 1
        self._workers[w] = new
        self.restarts += 1
        for job, pending in self._pending.items():
            if w not in pending.parts:
                self._send(new, (*job, pending.slot))

    def _pictures(self, slot: int) -> torch.Tensor:
        """The pictures [B, (V,) 3, H, W] in a slot, which is free again when the tensor is gone."""
        array = self._arena.slot(slot)
        if self._free:
            weakref.finalize(array, self._free.append, slot)
            image = torch.from_numpy(array)
        else:  # whoever takes the batches keeps them: give out a copy rather than wait for ever
            image = torch.from_numpy(array.copy())
            self._free.append(slot)
        return image.movedim(-1, -3)

    def died(self) -> int:
        """Workers that died since this was asked last."""
        n, self.restarts = self.restarts, 0
        return n

    def close(self) -> None:
        """Stop the workers."""
        self._closer()


def _close(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
    for worker in workers:
        worker.process.join(0.2)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join(5.0)
