"""Many clients of a service over HTTP/1.1 with connections that stay, light enough to leave it the cores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit


@dataclass
class Asked:
    """What many clients saw."""

    seconds: list[float] = field(default_factory=list)  # of each answer
    errors: list[str] = field(default_factory=list)
    took: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.took

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the answers came."""
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


class Client(asyncio.Protocol):
    """One connection: it asks, and asks the next question when the answer is whole."""

    def __init__(self, requests: Sequence[bytes], first: int, asked: Asked, until: float) -> None:
        self.requests, self.next, self.asked, self.until = requests, first, asked, until
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answer, self.size, self.begun = bytearray(), 0, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask the first question."""
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._ask()

    def _ask(self) -> None:
        self.begun = time.perf_counter()
        if self.begun >= self.until:
            self.transport.close()
            if not self.ended.done():
                self.ended.set_result(None)
            return
        self.answer, self.size = bytearray(), 0
        self.transport.write(self.requests[self.next % len(self.requests)])
        self.next += 1

    def data_received(self, data: bytes) -> None:
        """Wait for the rest, or count the answer and go on."""
        self.answer += data
        if not self.size:
            head = self.answer.find(b"\r\n\r\n")
            if head < 0:
                return
            start = self.answer.lower().index(b"content-length:", 0, head) + 15
            self.size = head + 4 + int(self.answer[start : self.answer.index(b"\r", start)])
        if len(self.answer) < self.size:
            return
        self.asked.seconds.append(time.perf_counter() - self.begun)
        if not self.answer.startswith(b"HTTP/1.1 200") or b'"matches":[{' not in self.answer:
            self.asked.errors.append(self.answer[:300].decode(errors="replace"))
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        """Count it, where an answer was waited for."""
        if not self.ended.done():
            self.asked.errors.append(f"the connection was lost: {error}")
            self.ended.set_result(None)


def requests_of(address: str, texts: Sequence[str], k: int) -> list[bytes]:
    """A request for each text."""
    host = urlsplit(address).netloc
    return [f"GET /search?text={quote(text)}&k={k} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() for text in texts]


async def ask(address: str, texts: Sequence[str], *, k: int, clients: int, seconds: float) -> Asked:
    """What `clients` see who ask one question after the other, each its own ones, for so many seconds."""
    where, asked, begun = urlsplit(address), Asked(), time.perf_counter()
    requests, loop = requests_of(address, texts, k), asyncio.get_running_loop()
    made = []
    for n in range(clients):
        first = n * len(requests) // clients
        _, client = await loop.create_connection(
            lambda first=first: Client(requests, first, asked, begun + seconds),  # type: ignore[misc]
            where.hostname,
            where.port,
        )
        made.append(client)
    await asyncio.gather(*(client.ended for client in made))
    asked.took = time.perf_counter() - begun
    return asked
