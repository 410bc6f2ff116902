"""Rank 0's side of the lifeline: it listens where the ranks of this run reach it, and tells everyone who failed.

A connection that does not show the run's secret (a port scan, a browser, noise) is closed and changes nothing. If the
hub itself fails, the run goes on without a lifeline.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

LONGEST_LINE = 1 << 16  # bytes; a reason is cut long before
GREETING_S = 10.0
"""How long a connection may take to show the secret."""
ECHO_S = 2.0
"""How long rank 0 waits for the cause when all it has heard are broken collectives, the echo of another's end."""
LEAVING_S = 10.0
"""How long the others may take to leave too, when one rank leaves the program from its middle."""
EARLY = "left the run before its end (sys.exit?)"
FAILED, GONE, LEFT, ECHO = range(4)
"""Reasons, the most certain first: the rank's own error, a closed connection, an early end, a broken collective."""


@dataclass
class Guest:
    """A connection; a rank of this run once it has shown the secret."""

    socket: socket.socket
    since: float = field(default_factory=time.monotonic)
    buffer: bytes = b""
    name: str = ""  # "rank 3 (host x, pid 5)"; "" until it has shown the secret
    rank: int = -1
    done: bool = False


class Hub:
    """Listens on `host`, one of this machine's addresses; `secret` is known to the ranks of the run alone."""

    def __init__(self, host: str, secret: str) -> None:
        self.server = socket.create_server((host, 0), backlog=1024)
        self.host: str = host
        self.port: int = self.server.getsockname()[1]
        self.secret = secret
        self.guests: dict[socket.socket, Guest] = {}
        self.reasons: list[tuple[int, int, str]] = []  # (how weak, how many came before, text)
        self.deadline = float("inf")
        self.selector = selectors.DefaultSelector()

    def serve(self, size: int) -> None:
        """Runs until all `size` ranks are done, or until one has failed and every rank knows why."""
        try:
            self.selector.register(self.server, selectors.EVENT_READ)
            while not self._over(size):
                for key, _ in self.selector.select(timeout=0.1):
                    if key.fileobj is self.server:
                        self._welcome(size)
                    else:
                        self._hear(key.data)
                self._let_slow_strangers_go()
            self._tell({"over": True} if self._all_done(size) else {"end": self.verdict})
        except Exception as error:  # a run must never fail because of what watches over it
            print(f"vlp: rank 0 no longer watches over the ranks ({error!r}); the run goes on", file=sys.stderr)
            self._tell({"over": True})
        finally:
            self.server.close()

    @property
    def verdict(self) -> str:
        """Who ended the run, and why: the best reason, of equal ones the first."""
        return min(self.reasons)[2]

    def _over(self, size: int) -> bool:
        here = sum(bool(g.name) for g in self.guests.values()) >= size  # who comes late has to hear the reason too
        return self._all_done(size) or time.monotonic() >= self.deadline + (0 if here else GREETING_S)

    def _all_done(self, size: int) -> bool:
        return sum(g.done for g in self.guests.values()) >= size

    def _welcome(self, size: int) -> None:
        accepted, _ = self.server.accept()
        if len(self.guests) > 2 * size + 64:  # ranks and some others; more are an attack
            accepted.close()
            return
        accepted.settimeout(1.0)
        guest = self.guests[accepted] = Guest(accepted)
        self.selector.register(accepted, selectors.EVENT_READ, guest)

    def _hear(self, guest: Guest) -> None:
        """Take in what came from one connection."""
        try:
            data = guest.socket.recv(65536)
        except OSError:
            data = b""
        *lines, guest.buffer = (guest.buffer + data).split(b"\n")
        for line in lines:
            if not self._understood(guest, line):
                self._let_go(guest)
                return
        if len(guest.buffer) > LONGEST_LINE:
            self._let_go(guest)
        elif not data:
            self._closed(guest)

    def _understood(self, guest: Guest, line: bytes) -> bool:
        """Act on a line; False if it is not from a rank of this run."""
        message = parsed(line)
        if not guest.name:
            rank, secret = message.get("rank"), message.get("secret")
            known = isinstance(secret, str) and hmac.compare_digest(
                secret.encode("utf-8", "replace"), self.secret.encode()
            )
            if known and isinstance(rank, int):
                guest.name, guest.rank = str(message.get("name", f"rank {rank}")), rank
            return known
        if "failed" in message:
            weight = ECHO if message.get("broken") else FAILED
            self._reason(weight, f"{guest.name} failed: {message['failed']}")
        if "done" in message:
            guest.done = True
            if message.get("early"):
                self._reason(LEFT, f"{guest.name} {EARLY}")
        return True

    def _closed(self, guest: Guest) -> None:
        """A connection was closed: a reason to end, if its rank was not done."""
        self.selector.unregister(guest.socket)
        if not guest.name:
            del self.guests[guest.socket]
            guest.socket.close()
        elif not guest.done and not any(guest.name in text for _, _, text in self.reasons):
            self._reason(GONE, f"{guest.name} ended without giving a reason (killed?)")

    def _reason(self, weight: int, text: str) -> None:
        self.reasons.append((weight, len(self.reasons), text))
        if weight == ECHO:  # another rank's end broke that collective: perhaps one that reported to be done
            left = [g for g in self.guests.values() if g.done]
            self.reasons += [(LEFT, g.rank, f"{g.name} {EARLY}") for g in left]
        patience = {LEFT: LEAVING_S, ECHO: ECHO_S}.get(weight, 0.0)
        self.deadline = min(self.deadline, time.monotonic() + patience)

    def _let_slow_strangers_go(self) -> None:
        late = time.monotonic() - GREETING_S
        for guest in [g for g in self.guests.values() if not g.name and g.since < late]:
            self._let_go(guest)

    def _let_go(self, guest: Guest) -> None:
        self.selector.unregister(guest.socket)
        self.guests.pop(guest.socket).socket.close()

    def _tell(self, message: dict[str, Any]) -> None:
        for guest in self.guests.values():
            if guest.name:
                send(guest.socket, message)


def parsed(line: bytes) -> dict[str, Any]:
    """The JSON object of a line; an empty one where it is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def send(line: socket.socket, message: dict[str, Any]) -> None:
    """Sends one message; a line that is gone already is no news."""
    with contextlib.suppress(OSError):
        line.sendall(json.dumps(message).encode() + b"\n")


def address_towards(host: str, port: int = 9) -> str:
    """The address of this machine from which it reaches `host`; nothing is sent to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return str(probe.getsockname()[0])
