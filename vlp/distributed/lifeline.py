"""One failed rank ends all ranks, within a second or two, with that rank's reason.

Every rank has a connection to rank 0. A rank that fails sends its reason before it ends; of one that is killed
the kernel closes the connection. Rank 0 then ends all ranks at once; if it has heard of broken collectives only, it
waits briefly for their cause. No collective is involved, so this works while all of them hang.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
from types import TracebackType

from vlp.distributed.hub import ECHO_S, Hub, parsed, send
from vlp.errors import tell_launcher
from vlp.legible import printable

PATIENCE_S = 5.0
"""How long a rank with a broken collective waits to hear which rank caused it."""
BROKEN = (
    "gloo",
    "nccl",
    "connection closed",
    "connection reset",
    "broken pipe",
    "socket",
    "process group",
    "timed out",
)


class Lifeline:
    """One rank's connection to rank 0. `close(error)` tells why this rank ends, or that it is done."""

    def __init__(self, rank: int, line: socket.socket, secret: str, hub: threading.Thread | None) -> None:
        self.name = f"rank {rank} (host {socket.gethostname()}, pid {os.getpid()})"
        self.rank, self.line, self.hub, self.closed = rank, line, hub, False
        send(line, {"secret": secret, "rank": rank, "name": self.name})
        self.listener = threading.Thread(target=self.listen, name="lifeline", daemon=True)
        self.listener.start()
        self.previous_hook = sys.excepthook
        sys.excepthook = self.excepthook
        atexit.register(self.close, None)

    @staticmethod
    def tie(rank: int, size: int, *, host: str, port: int, secret: str, hub: Hub | None) -> Lifeline:
        """Connects rank `rank` to rank 0's hub at (host, port); rank 0 gives its `hub`, which starts to serve."""
        thread = None
        if hub is not None:
            thread = threading.Thread(target=hub.serve, args=(size,), name="lifeline hub", daemon=True)
        line = socket.create_connection((host, port), timeout=60)  # waits in the hub's backlog until it serves
        if thread is not None:
            thread.start()  # not before: if another rank fails at once, the hub is gone when rank 0 comes
        line.settimeout(None)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return Lifeline(rank, line, secret, thread)

    def listen(self) -> None:
        """Ends this process when rank 0 says so, or when rank 0 itself is gone."""
        buffer = b""
        while True:
            try:
                data = self.line.recv(65536)
            except OSError:
                data = b""
            *lines, buffer = (buffer + data).split(b"\n")
            for message in map(parsed, lines):
                if "over" in message:
                    return
                if "end" in message and not (self.closed and message["end"].startswith(self.name)):
                    self.end(str(message["end"]))
            if not data:
                break
        if not self.closed and self.hub is None:
            self.end("rank 0 ended without giving a reason (killed?)")

    def end(self, reason: str) -> None:
        """Ends this process, whatever its main thread hangs in; rank 0 after it has informed the others."""
        if self.hub is not None:
            self.hub.join(PATIENCE_S)
        sentence = printable(f"vlp: rank {self.rank} ends because {reason}")
        print(sentence, file=sys.stderr, flush=True)
        tell_launcher(sentence)
        sys.stdout.flush()
        os._exit(1)

    def close(self, error: BaseException | None, *, early: bool = False) -> None:
        """Tells the others that this rank is done, or why it failed; an error that is an echo waits for its cause.

        `early`: the program leaves from its middle, with success; if the others do not, it is what ends the run.
        """
        if self.closed:
            return
        self.closed = error is None or not (broken := is_broken(error))
        if error is None:
            send(self.line, {"done": True, "early": early})
            if self.hub is not None:
                self.hub.join()  # rank 0 keeps the connections, and torch's store, until everyone is done
            return
        text = (str(error).strip().split("\n")[0] or "no message")[:2000]
        send(self.line, {"failed": f"{type(error).__name__}: {text}", "broken": broken})
        self.listener.join(PATIENCE_S if broken else ECHO_S)
        self.closed = True

    def excepthook(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Tells the others before the traceback is printed."""
        self.close(error)
        self.previous_hook(kind, error, trace)


def is_broken(error: BaseException) -> bool:
    """Whether an error looks like the echo of another rank's death in a collective."""
    return isinstance(error, RuntimeError | OSError) and any(mark in str(error).lower() for mark in BROKEN)
