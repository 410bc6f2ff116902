"""`vlp serve` as a program: what it refuses before it serves, and that it ends what has begun."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from eval.service.serve import KEY, key_of, main
from eval.service.settings import Settings
from vlp.errors import UserError


def test_a_port_in_use_is_one_sentence(index: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(UserError, match=r"port \d+ of 127.0.0.1 cannot be used .* choose another by --port"):
            main([str(index), "--port", str(taken.getsockname()[1])])


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--host", "no.such.host.invalid"], "set a key in the environment variable VLP_API_KEY, or allow them all"),
        (["--host", "no.such.host.invalid", "--no-key"], "no address no.such.host.invalid"),
        (["--host", "0.0.0.0"], "set a key in the environment variable VLP_API_KEY, or allow them all by --no-key"),
        (["--port", "70000"], '"port" is 70000, but it should be'),
        (["--queue", "0"], '"queue" is 0, but it should be'),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(index: Path, flags: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        main([str(index), "--port", "0", *flags])
    assert "\n" not in str(error.value)


def test_a_missing_index_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an index"):
        main([str(tmp_path / "nothing"), "--port", "0"])


def test_without_its_packages_the_extra_is_named(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"vlp serve needs uvicorn, .* pip install 'vlp\[serve\]'"):
        main([str(index), "--port", "0"])


@pytest.mark.parametrize("key", ["schlüssel", " spaces ", "two\nlines", "x" * 501])
def test_a_key_that_no_header_carries_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(KEY, key)
    with pytest.raises(UserError, match="printable ASCII"):
        key_of(Settings())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_service_answers_what_has_begun_and_ends_well(index: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "vlp.cli", "serve", str(index), "--port", "0", "--gather-ms", "700"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert requests.get(f"{address}/health").json()["status"] == "ok"
        statuses: list[int] = []
        threads = [
            threading.Thread(
                target=lambda: statuses.append(requests.get(f"{address}/search", {"text": "x"}).status_code)
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        while "vlp_waiting_questions 8.0" not in requests.get(f"{address}/metrics").text:
            assert process.poll() is None
        process.send_signal(number)
        for thread in threads:
            thread.join(20)
        assert process.wait(20) == 0
    assert statuses == [200] * 8
    with pytest.raises(requests.ConnectionError):
        requests.get(address)
