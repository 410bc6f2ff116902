"""An index in Milvus Lite as a whole: the commands, a kill at any moment, and the service."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from data_pipelines.sample import Sample
from eval.index.flat import Flat
from eval.index.milvus import Milvus
from eval.search import build, live
from eval.search.build import build_gallery
from eval.search.gallery import Gallery
from eval.search.verify import problems
from eval.service.current import Current
from vlp.errors import UserError
from vlp.models.release import Release

for package in ("pymilvus", "milvus_lite"):
    pytest.importorskip(package, reason="pip install 'vlp[milvus]'")

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
LOOK = """
import sys
from pathlib import Path
from eval.search.gallery import Gallery
from eval.search.verify import problems

assert problems(Path(sys.argv[1])) == []
print(len(Gallery.open(Path(sys.argv[1])).vectors))
"""
"""A program of its own, for one at a time may have the file"""
APPEND = """
import sys
from pathlib import Path
import numpy as np
from eval.search.gallery import Gallery

made = Gallery.open(Path(sys.argv[1])).vectors
while True:
    made.add(np.eye(32, dtype=np.float32), np.arange(made.end, made.end + 32))
    made.collection.flush()
"""
"""Rows of a version that never comes to count"""


def test_the_commands_keep_it_where_uri_says_and_drop_what_nobody_needs(
    release: Release, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "index", tmp_path / "elsewhere" / "vectors.db"
    for _ in range(2):
        assert build.main([release.name, str(shards), str(out), "--uri", str(file), "--thumbnail", "0"]) == 0
    assert "24 pictures, milvus" in capsys.readouterr().out
    assert len(list((file / "collections").iterdir())) == 2  # of the last version and the one before
    moved = out.rename(tmp_path / "moved")
    gallery = Gallery.open(moved)
    flat = build_gallery(release, str(shards), tmp_path / "flat", kind=Flat())
    queries = np.asarray(release.embed_texts(["red circle"]))
    one, other = (each.search(release, queries, 24)[0] for each in (gallery, flat))
    assert {hit.key for hit in one} == {hit.key for hit in other}
    assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], abs=1e-5)
    assert problems(moved) == []
    build_gallery(release, str(shards), moved, kind=Flat())
    build_gallery(release, str(shards), moved, kind=Flat())
    assert not list((file / "collections").iterdir())  # neither version is of this kind now
    with pytest.raises(UserError, match="--kind says what to build"):
        build.main([release.name, str(shards), str(out), "--uri", str(file), "--recall", "0.9"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_after_a_kill_at_any_moment_the_last_good_version_answers(
    release: Release, shards: Path, samples: list[Sample], tmp_path: Path
) -> None:
    """Writers of new collections and of more rows are killed at random; what counts is whole each time."""
    out, random_numbers = tmp_path / "index", random.Random(0)
    base = [sys.executable, "-m", "vlp.cli", "index"]
    build = [*base, "build", release.name, str(shards), str(out), "--kind", "milvus"]
    subprocess.run(build, check=True, capture_output=True, env=ENVIRONMENT)
    begun = time.monotonic()
    subprocess.run([*base, "compact", str(out)], check=True, capture_output=True, env=ENVIRONMENT)
    whole = time.monotonic() - begun
    for attempt in range(8):
        command = [sys.executable, "-c", APPEND, str(out)] if attempt % 2 else [*base, "compact", str(out)]
        with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
            time.sleep(random_numbers.uniform(0.4, 1.0) * whole)
            process.send_signal(signal.SIGKILL)
        look = [sys.executable, "-c", LOOK, str(out)]
        done = subprocess.run(look, check=False, capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) == len(samples)
    subprocess.run([*base, "compact", str(out)], check=True, capture_output=True, env=ENVIRONMENT)
    assert len(list((out / "milvus.db" / "collections").iterdir())) == 2  # of the last version and the one before


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of Milvus Lite's server, a program of its own, and the program."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["server", "--data-dir", str(tmp_path / "data"), "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen([sys.executable, "-m", "milvus_lite", *arguments], env=ENVIRONMENT) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", process
        process.kill()


@pytest.mark.slow
def test_an_index_on_a_server_grows_while_it_is_asked(
    release: Release,
    write: Callable[..., Path],
    samples: list[Sample],
    tmp_path: Path,
    server: tuple[str, subprocess.Popen[bytes]],
) -> None:
    """What is open answers as it did, what is opened after has what was added; a server that ends is a sentence."""
    (uri, process), out = server, tmp_path / "index"
    first, rest = write(tmp_path / "first", samples[:18]), write(tmp_path / "rest", samples[18:])
    build_gallery(release, str(first), out, kind=Milvus(uri=uri, patience=5))
    current = Current(out, model=release.name)
    before = current.version.gallery
    queries = np.asarray(release.embed_texts(["red circle"]))
    keys = {hit.key for hit in before.search(release, queries, 24)[0]}
    live.add(release, str(rest), out)
    live.remove([samples[0].key], out)
    assert {hit.key for hit in before.search(release, queries, 24)[0]} == keys == {s.key for s in samples[:18]}
    assert current.look()
    after = current.version.gallery.search(release, queries, 24)[0]
    assert {hit.key for hit in after} == {s.key for s in samples[1:]}
    assert problems(out) == []
    process.kill()
    process.wait()
    with pytest.raises(UserError, match=f"Milvus at {uri} did not answer") as error:
        before.search(release, queries, 24)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_service_answers_as_it_does_over_flat(release: Release, shards: Path, tmp_path: Path) -> None:
    """And another program that wants the file meanwhile is told so."""
    answers = {}
    for kind in ("milvus", "flat"):
        out = str(tmp_path / kind)
        base = [sys.executable, "-m", "vlp.cli"]
        built = [*base, "index", "build", release.name, str(shards), out, "--kind", kind]
        subprocess.run(built, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        serve = [*base, "serve", out, "--port", "0"]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            question = {"text": "red circle", "k": "24", "pictures": "false"}
            answers[kind] = requests.get(f"{address}/search", question, timeout=60).json()["matches"]
            if kind == "milvus":
                search = [*base, "search", out, "red circle"]
                other = subprocess.run(search, check=False, env=ENVIRONMENT, capture_output=True, text=True)
                assert other.returncode
                assert "another program has it open" in other.stderr
                assert "Traceback" not in other.stderr
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    scores = [[hit["score"] for hit in answers[kind]] for kind in ("milvus", "flat")]
    assert len(scores[0]) == 24
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
