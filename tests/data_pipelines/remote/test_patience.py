"""What is asked again, what is not, and how long is waited in between."""

from __future__ import annotations

import doctest
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from data_pipelines.remote import patience
from data_pipelines.remote.patience import Absent, Changed, Patience, Unreadable, answer, asked_pause

QUICK = Patience(attempts=3, first_wait=0.001, longest_wait=0.3)


class Answered(Exception):
    """As aiohttp tells of an answer."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(f"status {status}")
        self.status, self.headers = status, headers


def asked(error: Exception) -> tuple[type[Exception], int]:
    """What comes out when every attempt ends with `error`, and how many there were."""
    attempts: list[int] = []

    def ask(attempt: int) -> None:
        attempts.append(attempt)
        raise error

    with pytest.raises(Unreadable) as caught:
        QUICK.insist("it", ask)
    return caught.type, len(attempts)


def test_docstring_examples() -> None:
    assert doctest.testmod(patience).failed == 0


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_what_may_pass_is_asked_again(status: int) -> None:
    assert asked(Answered(status)) == (Unreadable, 3)


@pytest.mark.parametrize(
    "error", [Answered(404), Answered(403), FileNotFoundError("x"), PermissionError("x"), NotImplementedError()]
)
def test_what_is_final_is_not(error: Exception) -> None:
    assert asked(error) == (Absent, 1)


def test_an_object_of_another_version_is_told_apart() -> None:
    assert asked(Answered(412)) == asked(Answered(416)) == (Changed, 1)


def test_a_failed_look_up_is_not_an_absence() -> None:
    """fsspec says "not found" of everything; what it says it for is behind."""
    error = FileNotFoundError("http://x/a.tar")
    error.__cause__ = Answered(503)
    assert asked(error) == (Unreadable, 3)
    error.__cause__ = ConnectionResetError()
    assert asked(error) == (Unreadable, 3)
    error.__cause__ = Answered(404)
    assert asked(error) == (Absent, 1)


def test_silence_is_told_in_words() -> None:
    with pytest.raises(Unreadable, match="it: no answer within 60 s"):
        QUICK.insist("it", lambda _: (_ for _ in ()).throw(TimeoutError()))


def test_the_store_says_how_long_to_wait_up_to_a_bound() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=30)
    assert 25 < asked_pause({"retry-after": format_datetime(soon, usegmt=True)}) <= 30
    assert answer(Answered(429, **{"Retry-After": "7"})) == (429, {"retry-after": "7"})
    started = time.monotonic()
    assert asked(Answered(429, **{"Retry-After": "3600"})) == (Unreadable, 3)
    assert 0.6 <= time.monotonic() - started < 60
