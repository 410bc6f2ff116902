"""One failed rank ends all ranks, within a second or two, with that rank's reason.

Every rank holds a socket to rank 0. A rank that fails says why before it goes; one that is killed says nothing, but the
kernel closes its socket all the same. Rank 0 waits half a second for a better reason than a broken connection, then
tells everyone, and everyone ends. No collective is involved, so it works while all of them hang.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time
from types import TracebackType
from typing import Any

SETTLE_S = 0.5
"""How long rank 0 collects reasons after the first sign of trouble."""
PATIENCE_S = 5.0
"""How long a rank with a broken collective waits to be told whose fault it was."""
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


class Hub:
    """Rank 0's side: listens, collects reasons, tells everyone."""

    def __init__(self) -> None:
        self.server = socket.create_server(("", 0), backlog=1024)
        self.port: int = self.server.getsockname()[1]

    def serve(self, size: int) -> None:
        """Runs until all `size` ranks are done or one has failed and everyone has been told."""
        selector = selectors.DefaultSelector()
        selector.register(self.server, selectors.EVENT_READ)
        names: dict[Any, str] = {}
        open_lines: dict[Any, bytes] = {}
        reasons: list[tuple[int, str]] = []  # (how weak a reason it is, text)
        done, deadline = 0, float("inf")
        while done < size and time.monotonic() < deadline:
            for key, _ in selector.select(timeout=0.1):
                line = key.fileobj
                if line is self.server:
                    accepted, _ = self.server.accept()
                    selector.register(accepted, selectors.EVENT_READ)
                    open_lines[accepted], names[accepted] = b"", "a rank that never gave its name"
                    continue
                messages, alive = receive(line, open_lines)
                for message in messages:
                    names[line] = message.get("name", names[line])
                    if "failed" in message:
                        reasons.append((2 if message["broken"] else 0, f"{names[line]} failed: {message['failed']}"))
                    if "done" in message:
                        done, names[line] = done + 1, ""
                if not alive:
                    selector.unregister(line)
                    if names[line] and not any(reason.startswith(names[line]) for _, reason in reasons):
                        reasons.append((1, f"{names[line]} ended without a word (killed?)"))
                if reasons:
                    deadline = min(deadline, time.monotonic() + SETTLE_S)
        verdict = {"end": min(reasons)[1]} if reasons else {"over": True}
        for line in open_lines:
            send(line, verdict)
        self.server.close()


def receive(line: Any, pending: dict[Any, bytes]) -> tuple[list[dict[str, Any]], bool]:
    """(the whole messages that have arrived on `line`, whether it is still open)."""
    try:
        data = line.recv(65536)
    except OSError:
        data = b""
    *whole, pending[line] = (pending[line] + data).split(b"\n")
    return [json.loads(text) for text in whole], bool(data)


def send(line: socket.socket, message: dict[str, Any]) -> None:
    """Sends one message; a line that is gone already is no news."""
    with contextlib.suppress(OSError):
        line.sendall(json.dumps(message).encode() + b"\n")


class Lifeline:
    """One rank's line to rank 0. `close(error)` tells why this rank ends, or that it is done."""

    def __init__(self, rank: int, line: socket.socket, hub: threading.Thread | None) -> None:
        self.name = f"rank {rank} (host {socket.gethostname()}, pid {os.getpid()})"
        self.rank, self.line, self.hub, self.closed = rank, line, hub, False
        send(line, {"name": self.name})
        self.listener = threading.Thread(target=self.listen, name="lifeline", daemon=True)
        self.listener.start()
        self.previous_hook = sys.excepthook
        sys.excepthook = self.excepthook
        atexit.register(self.close, None)

    @staticmethod
    def tie(rank: int, size: int, *, host: str, hub: Hub | None, port: int) -> Lifeline:
        """Connects rank `rank` to rank 0's hub at (host, port); rank 0 gives its `hub`, which starts to serve."""
        thread = None
        if hub is not None:
            thread = threading.Thread(target=hub.serve, args=(size,), name="lifeline hub", daemon=True)
            thread.start()
        line = socket.create_connection(("127.0.0.1" if hub is not None else host, port), timeout=60)
        line.settimeout(None)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return Lifeline(rank, line, thread)

    def listen(self) -> None:
        """Ends this process when rank 0 says so, or when rank 0 itself is gone."""
        pending = {self.line: b""}
        alive = True
        while alive:
            messages, alive = receive(self.line, pending)
            for message in messages:
                if "over" in message:
                    return
                if "end" in message and not (self.closed and message["end"].startswith(self.name)):
                    self.end(message["end"])
        if not self.closed:
            self.end("rank 0 ended without a word (killed?)")

    def end(self, reason: str) -> None:
        """Ends this process, whatever its main thread hangs in; rank 0 when it has told the others."""
        if self.hub is not None:
            self.hub.join(PATIENCE_S)
        print(f"vlp: rank {self.rank} ends because {reason}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)

    def close(self, error: BaseException | None) -> None:
        """Tells the others that this rank is done, or why it failed; an error that is an echo waits for its cause."""
        if self.closed:
            return
        self.closed = error is None or not (broken := is_broken(error))
        if error is None:
            send(self.line, {"done": True})
            if self.hub is not None:
                self.hub.join()  # rank 0 keeps the lines, and torch's store, until everyone is done
            return
        text = str(error).strip().split("\n")[0] or "no message"
        send(self.line, {"failed": f"{type(error).__name__}: {text}", "broken": broken})
        self.listener.join(PATIENCE_S if broken else 4 * SETTLE_S)
        self.closed = True

    def excepthook(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Tells the others before the traceback is printed."""
        self.close(error)
        self.previous_hook(kind, error, trace)


def is_broken(error: BaseException) -> bool:
    """Whether an error looks like the echo of another rank's death in a collective."""
    return isinstance(error, RuntimeError | OSError) and any(mark in str(error).lower() for mark in BROKEN)
