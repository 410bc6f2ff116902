"""A rank ends itself when its launcher is gone, which would otherwise leave it running for ever."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

EVERY_S = 1.0
PATIENCE_S = 60.0
"""How long a rank may take to save and go, once its launcher is gone."""


def end_with_parent(parent: int) -> None:
    """Watch, in a thread of its own, that `parent` is still this process's parent.

    When it is not, this process is asked to stop as a cluster would ask it (SIGTERM), and ended if it does not.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(EVERY_S)
        print("vlp: the launcher of this rank is gone, so the rank stops", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
