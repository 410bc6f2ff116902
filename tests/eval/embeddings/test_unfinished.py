"""Embedding that is stopped at any moment: the same command ends in the bytes of an undisturbed run."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.embeddings import blocks, store, unfinished
from eval.embeddings.embed import embed
from eval.embeddings.store import EmbeddingStore
from eval.embeddings.unfinished import Loss, Made, Unfinished
from vlp.models.release import Release

ROOT = Path(__file__).parents[3]


class Killed(BaseException):
    """What nothing catches."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def spec(samples: list[Sample], write: Callable[..., Path], tmp_path: Path) -> str:
    """One tar of 12 samples, of which two have no picture that can be decoded."""
    some = [replace(s, image=b"none") if i in (5, 8) else s for i, s in enumerate(samples[:12])]
    return str(write(tmp_path / "shards", some, per_shard=12))


def test_killed_before_every_file_it_ends_in_the_same_bytes(
    release: Release, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 4 samples, each saved at once; a part's own files come after them."""
    monkeypatch.setattr(blocks, "PICTURES_AT_ONCE", 4)
    embed(release, spec, tmp_path / "whole", save_s=0)
    encoded: list[int] = []
    left = 0
    write, make = unfinished.write_whole, Release.embed_pixels

    def counted(path: Path, content: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.part").write_bytes(b"half")
            raise Killed
        write(path, content)  # type: ignore[arg-type]

    def seen(self: Release, image: object, batch: int = 256) -> object:
        encoded.append(len(image))  # type: ignore[arg-type]
        return make(self, image, batch)  # type: ignore[arg-type]

    for module in (unfinished, store):
        monkeypatch.setattr(module, "write_whole", counted)
    monkeypatch.setattr(Release, "embed_pixels", seen)
    for step in range(1, 100):
        encoded.clear()
        left, out = step, tmp_path / f"cut{step}"
        try:
            embed(release, spec, out, save_s=0)
        except Killed:
            left = 0
            embed(release, spec, out, save_s=0)
            whole = {name: data for name, data in contents(out).items() if not name.endswith(".part")}
            assert whole == contents(tmp_path / "whole"), f"killed before file {step}"
            assert sum(encoded) <= 10 + 4, "one block at most is computed again"
        else:
            break
    assert step == 3 + 5 + 1  # 12 / 4 blocks, and the five files of the part


def test_a_kept_block_that_was_altered_is_computed_again(
    release: Release, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "PICTURES_AT_ONCE", 4)
    embed(release, spec, tmp_path / "whole", save_s=0)
    out, finish = tmp_path / "cut", Unfinished.finish

    def stop(self: Unfinished, *args: object) -> None:
        raise Killed

    monkeypatch.setattr(Unfinished, "finish", stop)
    with pytest.raises(Killed):
        embed(release, spec, out, save_s=0)
    monkeypatch.setattr(Unfinished, "finish", finish)
    kept = sorted((out / "unfinished_0").glob("*.block"))
    assert [path.name for path in kept][:2] == ["0000000000-0000000004-4.block", "0000000004-0000000008-3.block"]
    data = bytearray(kept[2].read_bytes())
    data[-1] ^= 1
    kept[2].write_bytes(data)
    embed(release, spec, out, save_s=0)
    assert contents(out) == contents(tmp_path / "whole")


def test_vectors_are_joined_as_numpy_saves_them_and_rows_in_groups_of_one_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr(unfinished, "ROW_GROUP", 4)
    vectors = np.random.default_rng(0).random((10, 3), np.float32).astype(np.float16)
    files = []
    for name, cuts in (("a", (0, 3, 3, 10)), ("b", (0, 1, 6, 10))):
        part = Unfinished(tmp_path / name, "0", save_s=0)
        for start, stop in pairwise(cuts):
            rows = {column: [f"{column} {i}" for i in range(start, stop)] for column in unfinished.COLUMNS}
            lost = [Loss("missing picture", "x.tar", count=stop)] if stop == 10 else []
            held = {"img_emb": vectors[start:stop]} if stop > start else {}
            part.add(Made(start, stop, held, rows, lost))
        part.finish(("img_emb",), dict)
        files.append(contents(tmp_path / name))
        assert not part.folder.exists()
    assert files[0] == files[1]
    np.save(tmp_path / "numpy.npy", vectors)
    assert files[0]["img_emb/img_emb_0.npy"] == (tmp_path / "numpy.npy").read_bytes()
    table = pq.ParquetFile(tmp_path / "a" / "metadata" / "metadata_0.parquet")
    assert [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)] == [4, 4, 2]
    assert table.read()["key"].to_pylist() == [f"key {i}" for i in range(10)]


PROGRAM = """
import sys
from pathlib import Path
from eval.embeddings import blocks
from eval.embeddings.embed import embed
from vlp.models import release
blocks.PICTURES_AT_ONCE = 16
model = release.load(sys.argv[1])
print("begins", flush=True)
embed(model, sys.argv[2], Path(sys.argv[3]), save_s=0)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_9_at_random_moments_it_ends_in_the_same_bytes(
    model_folder: Path, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    many = [replace(s, key=f"{s.key}_{turn}") for turn in range(40) for s in samples]
    spec = str(write(tmp_path / "shards", many, per_shard=700))

    def begun(out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, str(model_folder), spec, str(out)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        return process

    process, start = begun(tmp_path / "whole"), time.monotonic()
    assert process.wait() == 0
    seconds, rng, kills = time.monotonic() - start, random.Random(0), 0
    while True:
        process = begun(tmp_path / "cut")
        try:
            assert process.wait(rng.uniform(0, seconds / 2)) == 0
            if kills >= 2:
                break
            shutil.rmtree(tmp_path / "cut")  # the machine has become faster: once more, with earlier kills
            seconds, kills = seconds / 4, 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            seconds *= 1.1  # and slower
        assert kills < 30
    whole = contents(tmp_path / "whole")
    assert {n: data for n, data in contents(tmp_path / "cut").items() if not n.endswith(".lock")} == whole
    made = EmbeddingStore.open(tmp_path / "cut")
    assert [key for part in made.parts for key in made.rows(part)["key"].to_pylist()] == [s.key for s in many]
