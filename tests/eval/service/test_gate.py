"""Nobody asks without a key where there is one, faster than allowed, or when too many wait."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from eval.service.gate import MOST_CLIENTS, Rate


@given(st.floats(0.5, 20), st.lists(st.floats(0, 0.5), min_size=1, max_size=200))
def test_no_client_asks_more_often_than_its_rate_and_one_burst(rate: float, gaps: list[float]) -> None:
    bucket, now, allowed = Rate(rate), 100.0, 0
    for gap in gaps:
        now += gap
        allowed += bucket.allows("a", now)
    assert min(len(gaps), int(rate)) <= allowed <= max(1.0, 2 * rate) + rate * (now - 100) + 1e-6


def test_rates_of_many_clients_take_bounded_room() -> None:
    bucket = Rate(1.0)
    for i in range(MOST_CLIENTS + 500):
        assert bucket.allows(str(i), 0.0)
    assert len(bucket._buckets) == MOST_CLIENTS


def test_too_many_questions_a_second_are_429_and_other_routes_are_not(index: Path, serve: Any) -> None:
    with serve(index, rate=0.5) as address:
        answers = [requests.get(f"{address}/search", {"text": "x", "k": "1"}) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 429, 429, 429, 429]
        assert answers[1].headers["Retry-After"] == "1"
        assert "too many" in answers[1].json()["detail"]
        assert all(requests.get(f"{address}/health").ok for _ in range(5))


def test_more_questions_than_may_wait_are_429_at_once(index: Path, serve: Any) -> None:
    with serve(index, queue=3, gather_ms=500.0) as address, ThreadPoolExecutor(12) as many:

        def ask(_: int) -> tuple[int, float]:
            start = time.monotonic()
            return requests.get(f"{address}/search", {"text": "x"}).status_code, time.monotonic() - start

        result = list(many.map(ask, range(12)))
        assert {status for status, _ in result} == {200, 429}
        assert sum(status == 200 for status, _ in result) >= 3
        assert min(seconds for status, seconds in result if status == 429) < 0.4
        assert requests.get(f"{address}/search", {"text": "x"}).ok


def test_with_a_key_nothing_of_the_index_is_given_without_it(index: Path, serve: Any) -> None:
    with serve(index, key="sesame") as address:
        for route in ("/search?text=x", "/metrics", "/openapi.json", "/elsewhere"):
            for headers in ({}, {"X-API-Key": "other"}, {"Authorization": "Bearer other"}, {"Authorization": "sesame"}):
                answer = requests.get(address + route, headers=headers)
                assert (answer.status_code, "header X-API-Key" in answer.json()["detail"]) == (401, True)
        assert requests.get(f"{address}/search?text=x", headers={"X-API-Key": "sesame"}).ok
        assert requests.get(f"{address}/search?text=x", headers={"Authorization": "Bearer sesame"}).ok
        assert requests.get(f"{address}/health").ok
        assert requests.get(address).ok


@pytest.mark.parametrize("host", ["example.org", "example.org:80", "", "127.0.0.1.example.org", "[::2]:1"])
def test_a_page_that_gave_its_name_this_address_is_refused(address: str, host: str) -> None:
    assert requests.get(f"{address}/search?text=x", headers={"Host": host}).status_code in (400, 421)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:8000", "[::1]"])
def test_the_names_of_this_machine_are_answered(address: str, host: str) -> None:
    assert requests.get(f"{address}/search?text=x", headers={"Host": host}).ok


def test_a_body_that_does_not_arrive_is_408_and_frees_its_place(index: Path, serve: Any) -> None:
    with serve(index, patience=0.4, queue=1) as address:
        where = urlsplit(address)
        with socket.create_connection((str(where.hostname), int(where.port or 0)), 10) as slow:
            slow.sendall(b"POST /knn-service HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            assert slow.recv(4096).startswith(b"HTTP/1.1 408")
        assert requests.get(f"{address}/search?text=x").ok
