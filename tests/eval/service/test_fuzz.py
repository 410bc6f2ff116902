"""Whatever is sent, the service answers with what its document describes, and never with 500."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from tests.eval.conftest import drawing

PNG = drawing("red", "circle")
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.fixture(scope="module")
def fuzzed(index: Path, serve: Any) -> Iterator[str]:
    with serve(index, most_body=50_000, most_pixels=100_000, gather_ms=0.0) as url:
        yield url


def test_requests_made_of_the_document_are_answered_as_it_says(fuzzed: str) -> None:
    checks = [not_a_server_error, status_code_conformance, response_schema_conformance]
    document = schemathesis.openapi.from_url(f"{fuzzed}/openapi.json")
    asked = 0
    for operation in document.get_all_operations():

        @given(case=operation.ok().as_strategy())
        @QUICK
        def ask(case: Any) -> None:
            nonlocal asked
            asked += 1
            case.call_and_validate(base_url=fuzzed, checks=checks)

        ask()
    assert asked >= 100
    assert requests.get(f"{fuzzed}/search", {"text": "red circle"}).ok


def test_uploads_of_any_bytes_are_matches_or_one_sentence(fuzzed: str, session: requests.Session) -> None:
    cut = st.builds(lambda n: PNG[:n], st.integers(0, len(PNG)))
    flipped = st.builds(
        lambda at, value: PNG[:at] + bytes([value]) + PNG[at + 1 :], st.integers(0, len(PNG) - 1), st.integers(0, 255)
    )
    starts = st.sampled_from(
        [b"", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"II*\0", b"BM", b"P6 9 9 255\n"]
    )
    pictures = cut | flipped | st.builds(bytes.__add__, starts, st.binary(max_size=300))

    @given(pictures, st.text(max_size=30), st.sampled_from(["image", "more_image", "less_image"]))
    @QUICK
    def ask(picture: bytes, name: str, field: str) -> None:
        answer = session.post(f"{fuzzed}/search", {"k": "2"}, files={field: (name, picture)})
        assert answer.status_code in (200, 422), answer.text
        assert answer.ok or "\n" not in answer.json()["detail"]
        body = json.dumps({"image": base64.b64encode(picture).decode(), "num_images": 1})
        assert session.post(f"{fuzzed}/knn-service", data=body).status_code in (200, 422)

    ask()


def test_bodies_of_any_bytes_are_refused(fuzzed: str, session: requests.Session) -> None:
    kinds = st.sampled_from(
        ["application/json", "multipart/form-data; boundary=x", "multipart/form-data", "", "text/plain"]
    )
    bodies = st.binary(max_size=200) | st.builds(
        lambda name, data: (
            b'--x\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n' + data + b"\r\n--x--\r\n"
        ),
        st.sampled_from([b"text", b"image", b"k", b"more", b"\xff", b'a"; filename="../../x']),
        st.binary(max_size=60),
    )

    @given(bodies, kinds, st.sampled_from(["search", "knn-service"]))
    @QUICK
    def ask(body: bytes, kind: str, route: str) -> None:
        answer = session.post(f"{fuzzed}/{route}", data=body, headers={"Content-Type": kind})
        assert answer.status_code in (200, 400, 422), answer.text

    ask()
