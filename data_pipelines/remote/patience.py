"""Asking a store again: which failures may pass, which are final, and how long to wait in between."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from vlp.errors import UserError

T = TypeVar("T")
REFUSED = (401, 403, 404, 405, 410, 451)  # a store that says one of these will say it again
ANOTHER = (412, 416)  # the object has another ETag, or is shorter, than when it was opened


class Unreadable(Exception):
    """A shard, or a part of it, that cannot be read."""


class Absent(Unreadable):
    """An object that is not there, or no longer, or that may not be read."""


class Changed(Unreadable):
    """An object that is not the one any more that was opened: its parts do not belong together."""


class Replaced(Changed):
    """A shard that is not the one that its manifest lists."""


@dataclass(frozen=True)
class Patience:
    """How long a remote store is waited for."""

    attempts: int = 8
    """requests in a row that may bring nothing, before a read is given up"""
    first_wait: float = 0.2
    """seconds before the second attempt; doubled after each, with jitter"""
    longest_wait: float = 20.0
    """seconds between attempts, at most, also where the store asks for more"""
    deadline: float = 60.0
    """seconds for one request (one block)"""

    def insist(self, what: str, ask: Callable[[int], T]) -> T:
        """What `ask(attempt)` returns at last; transient failures are waited out, for as long as the store asks.

        Raises Absent and Changed at once where the store says so, Unreadable after the last attempt.
        """
        for attempt in range(self.attempts):
            try:
                return ask(attempt)
            except (UserError, Unreadable):
                raise
            except Exception as error:  # every store has its own; all that are not final may pass
                status, headers = answer(error)
                problem = f"{what}: {self._in_words(error)}"
                if status in ANOTHER:
                    raise Changed(f"{what} was changed while it was read (status {status})") from None
                if _final(error, status):
                    raise Absent(problem) from None
                if attempt + 1 == self.attempts:
                    raise Unreadable(problem) from None
                pause = self.first_wait * 2**attempt * random.uniform(0.5, 1.0)
                time.sleep(min(self.longest_wait, max(pause, asked_pause(headers))))
        raise AssertionError("unreachable")

    def _in_words(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self.deadline:g} s"
        return f"{type(error).__name__}: {error}"


def _final(error: Exception, status: int) -> bool:
    """Whether asking again is useless. fsspec calls every failed look-up "not found"; its cause says what happened."""
    if isinstance(error, PermissionError | NotImplementedError):  # expired credentials among them
        return True
    if status or error.__cause__ is not None:
        return status in REFUSED
    return isinstance(error, FileNotFoundError)


def answer(error: BaseException | None) -> tuple[int, Mapping[str, str]]:
    """HTTP status and headers (names in lower case) of an error of aiohttp or botocore; 0 where there is none."""
    while error is not None:
        said: Any = getattr(error, "response", None)  # botocore's
        if isinstance(said, dict) and (about := said.get("ResponseMetadata")):
            return int(about.get("HTTPStatusCode", 0)), _lower(about.get("HTTPHeaders"))
        status: Any = getattr(error, "status", None)  # aiohttp's
        if isinstance(status, int):
            return status, _lower(getattr(error, "headers", None))
        error = error.__cause__
    return 0, {}


def _lower(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in (headers or {}).items()}


def asked_pause(headers: Mapping[str, str]) -> float:
    """Seconds that a Retry-After header asks for, given as a number or as a date; 0 if there is none.

    >>> asked_pause({"retry-after": "1.5"}), asked_pause({"retry-after": "soon"}), asked_pause({})
    (1.5, 0.0, 0.0)
    """
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
