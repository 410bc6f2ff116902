"""What every request passes before anything is read of it: host, key, rate, room in the queue, time to arrive."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eval.service.measures import Measures
from eval.service.settings import Settings

QUESTIONS = ("/search", "/knn-service")
WITHOUT_KEY = ("/", "/health")  # they tell nothing of what is in the index
ROUTES = (*QUESTIONS, *WITHOUT_KEY, "/metrics", "/openapi.json")
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
MOST_CLIENTS = 10_000  # whose rate is remembered
SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


class Rate:
    """A bucket of tokens for each client: `rate` more a second, twice as many at most, one for each question."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when they were counted

    def allows(self, client: str, now: float) -> bool:
        """Whether `client` may ask at `now` (seconds of a clock that never goes back)."""
        if not self.rate:
            return True
        most = max(1.0, 2 * self.rate)
        tokens, before = self._buckets.pop(client, (most, now))
        tokens = min(most, tokens + (now - before) * self.rate)
        self._buckets[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return tokens >= 1


class Gate:
    """The outermost layer of the service (ASGI)."""

    def __init__(self, app: ASGIApp, *, settings: Settings, key: str, measures: Measures) -> None:
        self.app, self.settings, self.key, self.measures = app, settings, key, measures
        self.rate = Rate(settings.rate)
        self.too_large = f"a request has at most {settings.most_body:,} bytes"
        self.waiting = 0

    def _refusal(self, path: str, headers: Headers, client: str) -> tuple[int, str] | None:
        """Status and sentence for a request that goes no further."""
        host = headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self.settings.is_local and not self.key and name not in (*LOCAL_NAMES, self.settings.host):
            return 421, "this service answers to localhost alone"  # a page elsewhere that gave its name our address
        if self.key and path not in WITHOUT_KEY and not self._has_key(headers):
            return 401, "give the service's key in the header X-API-Key"
        if int(headers.get("content-length", "0")) > self.settings.most_body:
            return 413, self.too_large
        if path in QUESTIONS:
            if not self.rate.allows(client, time.monotonic()):
                return 429, "too many questions a second from one address; ask again later"
            if self.waiting >= self.settings.queue:
                return 429, "too many questions wait already; ask again later"
        return None

    def _has_key(self, headers: Headers) -> bool:
        kind, _, token = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (token.strip() if kind.lower() == "bearer" else "")
        return hmac.compare_digest(given.encode(), self.key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that goes no further, pass on all others; count both."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = str(scope["path"])
        asks = path in QUESTIONS
        client = str((scope.get("client") or ("",))[0])
        start, status = time.perf_counter(), [0]

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.lower().encode(), value.encode()) for name, value in SAFE_HEADERS.items()),
                ]
            await send(message)

        refusal = self._refusal(path, Headers(scope=scope), client)
        self._enter(asks and refusal is None, 1)
        try:
            if refusal is not None:
                answer = JSONResponse({"detail": refusal[1]}, refusal[0], headers=_advice(refusal[0]))
                await answer(scope, receive, counted)
            else:
                await self.app(scope, self._within(receive), counted)
        finally:
            self._enter(asks and refusal is None, -1)
            route = path if path in ROUTES else "other"
            self.measures.requests.labels(route, str(status[0])).inc()
            self.measures.seconds.labels(route).observe(time.perf_counter() - start)

    def _enter(self, asks: bool, step: int) -> None:
        if asks:
            self.waiting += step
            self.measures.waiting.set(self.waiting)

    def _within(self, receive: Receive) -> Receive:
        """`receive`, but a body that is too large is 413, and one that has not arrived in time 408."""
        end, size, whole = time.monotonic() + self.settings.patience, 0, False

        async def limited() -> Any:
            nonlocal size, whole
            if whole:  # nothing comes any more but the word that the client has gone
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
            except TimeoutError:
                raise HTTPException(408, "the request took too long to arrive") from None
            size += len(message.get("body", b""))
            if size > self.settings.most_body:
                raise HTTPException(413, self.too_large)
            whole = message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        return limited


def _advice(status: int) -> dict[str, str]:
    advice = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}
    return advice.get(status, {})
