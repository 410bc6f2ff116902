"""Ctrl-C, SIGTERM and a cluster's warning: noted, and answered after the step that is under way.

One rule for whoever starts runs: exit status 75 (EX_TEMPFAIL of sysexits.h) after SIGTERM or SIGUSR1 says that nothing
is lost and that the same command goes on; RUN/requeue says the same where a launcher has a status of its own.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from vlp.files import write_whole

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
TRY_AGAIN = 75
"""Exit status of a run that a cluster asked to stop; after Ctrl-C it is 130, as of every program."""
REQUEUE = "requeue"
"""A file in the run's folder while a run that was asked to stop waits to be started again."""


class Interrupted(SystemExit):
    """A run was asked to stop, and lost nothing; its text says how to go on."""

    def __init__(self, text: str, signum: int) -> None:
        super().__init__(128 + signum if signum == signal.SIGINT else TRY_AGAIN)
        self.text = text

    def __str__(self) -> str:
        return self.text

    def leave_word(self, run: Path) -> None:
        """Write RUN/requeue, where the run is to be started again."""
        if self.code == TRY_AGAIN:
            write_whole(run / REQUEUE, f"{self.text}\n", shared=True)


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
