"""An index in Milvus Lite as a whole: the commands, a kill at any moment, and the service."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import requests

from data_pipelines.sample import Sample
from eval.embeddings.embed import embed
from eval.index.flat import Flat
from eval.search import build
from eval.search.build import build_gallery
from eval.search.gallery import Gallery
from eval.search.verify import problems
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
def test_after_a_kill_at_any_moment_the_last_good_version_answers(
    release: Release, shards: Path, samples: list[Sample], tmp_path: Path
) -> None:
    """Eight builds and additions are killed at random; what counts is whole each time, and adding goes on after."""
    out = tmp_path / "index"
    embed(release, str(shards), tmp_path / "store")
    keys, random_numbers, counts = {s.key for s in samples}, random.Random(0), []
    base = [sys.executable, "-m", "vlp.cli", "index"]
    commands = (
        [*base, "update", str(out), str(tmp_path / "store"), "--model", release.name],
        [*base, "build", release.name, str(tmp_path / "store"), str(out), "--kind", "milvus"],
    )
    subprocess.run(commands[1], check=True, capture_output=True, env=ENVIRONMENT, timeout=120)
    begun = time.monotonic()
    subprocess.run(commands[0], check=True, capture_output=True, env=ENVIRONMENT, timeout=120)
    whole = time.monotonic() - begun
    for attempt in range(8):
        with subprocess.Popen(commands[attempt % 2], env=ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
            time.sleep(random_numbers.uniform(0.3, 1.0) * whole)
            process.send_signal(signal.SIGKILL)
        done = subprocess.run(
            [sys.executable, "-c", LOOK, str(out)], check=False, capture_output=True, text=True, env=ENVIRONMENT
        )
        assert done.returncode == 0, done.stderr
        counts.append(int(done.stdout))
    assert set(counts) == {len(keys)}


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
