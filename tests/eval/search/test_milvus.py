"""An index in Milvus Lite as a whole: the commands, a kill at any moment, and the service."""

from __future__ import annotations

import os
import random
import shutil
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
from eval.search import build, live
from eval.search.build import build_gallery
from eval.search.gallery import Gallery
from eval.search.verify import problems
from vlp.errors import UserError
from vlp.models.release import Release

for package in ("pymilvus", "milvus_lite"):
    pytest.importorskip(package, reason="pip install 'vlp[milvus]'")

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_the_commands_keep_it_where_uri_says_and_drop_what_nobody_needs(
    release: Release, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "index", tmp_path / "elsewhere" / "vectors.db"
    for _ in range(3):
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
    build_gallery(release, str(tmp_path / "store"), out, kind=build.chosen_kind("milvus", ()))
    keys, random_numbers, counts = {s.key for s in samples}, random.Random(0), []
    base = [sys.executable, "-m", "vlp.cli", "index"]
    commands = (
        [*base, "update", str(out), str(tmp_path / "store"), "--model", release.name],
        [*base, "build", release.name, str(tmp_path / "store"), str(out), "--kind", "milvus"],
    )
    begun = time.monotonic()
    subprocess.run(commands[0], check=True, capture_output=True, env=ENVIRONMENT, timeout=120)
    whole = time.monotonic() - begun
    for attempt in range(8):
        with subprocess.Popen(commands[attempt % 2], env=ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
            time.sleep(random_numbers.uniform(0.3, 1.0) * whole)
            process.send_signal(signal.SIGKILL)
        look = (
            "import sys; from pathlib import Path; from eval.search.verify import problems; "
            "from eval.search.gallery import Gallery; out = Path(sys.argv[1]); assert problems(out) == [], problems(out); "
            "print(len(Gallery.open(out).vectors))"
        )  # in a process of its own: one at a time may have the file
        done = subprocess.run(
            [sys.executable, "-c", look, str(out)], check=False, capture_output=True, text=True, env=ENVIRONMENT
        )
        assert done.returncode == 0, done.stderr
        counts.append(int(done.stdout))
    assert set(counts) == {len(keys)}


@pytest.mark.slow
def test_the_service_answers_as_it_does_over_flat(release: Release, shards: Path, tmp_path: Path) -> None:
    """And another program that wants the file meanwhile is told so."""
    kinds = {"milvus": build.chosen_kind("milvus", ()), "flat": Flat()}
    answers = {}
    for name, kind in kinds.items():
        subprocess.run(
            [sys.executable, "-m", "vlp.cli", "index", "build", release.name, str(shards), str(tmp_path / name)]
            + ["--kind", name],
            check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        assert Gallery.open is not None and kind
        command = [sys.executable, "-m", "vlp.cli", "serve", str(tmp_path / name), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            found = requests.get(f"{address}/search", {"text": "red circle", "k": 24}, timeout=60).json()
            answers[name] = found
            if name == "milvus":
                other = subprocess.run(
                    [sys.executable, "-m", "vlp.cli", "search", str(tmp_path / name), "red circle"],
                    check=False, env=ENVIRONMENT, capture_output=True, text=True,
                )  # fmt: skip
                assert other.returncode
                assert "another program has it open" in other.stderr
                assert "Traceback" not in other.stderr
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    one, two = (answers[name]["hits"] if "hits" in answers[name] else answers[name] for name in ("milvus", "flat"))
    assert [hit["score"] for hit in one] == pytest.approx([hit["score"] for hit in two], abs=1e-4)
