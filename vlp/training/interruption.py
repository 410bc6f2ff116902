"""Ctrl-C, SIGTERM and a cluster's warning: noted, and answered after the step that is under way."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(SystemExit):
    """A run was asked to stop, and did so with a checkpoint; its text says how to go on. Exit status 128 + signal."""

    def __init__(self, text: str, signum: int) -> None:
        super().__init__(128 + signum)
        self.text = text

    def __str__(self) -> str:
        return self.text


class OutsideTheLoop:
    """A context in which a signal ends this process at once with a sentence: nothing that was done is lost.

    It is for the time before the first step and after the last; `Interruption` takes over in between.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def __enter__(self) -> OutsideTheLoop:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._stop) for s in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        name = signal.Signals(signum).name
        text = f"interrupted by {name} outside of a step; nothing is lost: give the same command again to go on"
        print(text, file=sys.stderr, flush=True)
        raise Interrupted(text, signum)


class Interruption:
    """A context in which the first signal only sets `asked`; a second one acts as it would have before."""

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signum != 0

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals to that thread alone
            self._before = {s: signal.signal(s, self._note) for s in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put_back()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._put_back()

    def _put_back(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}
