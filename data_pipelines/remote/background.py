"""Calls in a few threads that keep no process from ending."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
Call = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


class Background:
    """Runs calls in at most `threads` threads, begun as they are needed.

    A ThreadPoolExecutor would let the interpreter wait at its exit for calls under way, and one that insists on a dead
    store may take minutes. Here the exit does not wait for such calls.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads, self._name, self._lock = threads, name, threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._pid, self._started, self._calls = os.getpid(), 0, SimpleQueue[Call | None]()
        end = weakref.finalize(self, _end, self._calls, self._threads)
        end.atexit = False

    def submit(self, call: Callable[..., T], *args: Any) -> Future[T]:
        """The result of `call(*args)`, perhaps still on its way; in a forked child only what it submits itself runs."""
        future = Future[T]()
        with self._lock:
            if self._pid != os.getpid():
                self._begin()
            self._calls.put((future, call, args))
            if self._started < self._threads:
                name = f"{self._name}-{self._started}"
                threading.Thread(target=_run, args=(self._calls,), name=name, daemon=True).start()
                self._started += 1
        return future


def _run(calls: SimpleQueue[Call | None]) -> None:
    while waiting := calls.get():
        future, call, args = waiting
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call(*args))
            except BaseException as error:
                future.set_exception(error)
        del waiting, future, call, args  # while this thread waits it keeps nothing alive


def _end(calls: SimpleQueue[Call | None], threads: int) -> None:
    for _ in range(threads):
        calls.put(None)
