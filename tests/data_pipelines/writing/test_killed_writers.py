"""Writers of shards killed -9 at every step and at any moment: the same command ends in the same bytes."""

from __future__ import annotations

import io
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_pipelines.commands.build import Shards, build
from data_pipelines.commands.reshard import Reshard, reshard
from data_pipelines.filters import Filters
from data_pipelines.shards import manifest
from data_pipelines.sources.folder import Folder

ROOT = Path(__file__).parents[3]
STEPS = ("open", "os.rename", "os.remove", "sqlite3.connect")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def dies(work: Callable[[], Any], out: Path, step: int) -> bool:
    """Whether a process of its own that does `work` is killed -9 before its `step`-th touch of a file under `out`."""
    child = os.fork()
    if child == 0:
        left = step

        def hook(event: str, args: tuple[Any, ...]) -> None:
            nonlocal left
            if event in STEPS and str(out) in str(args[0]):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the work failed by itself"
    return os.WIFSIGNALED(status)


def kills_survived(work: Callable[[Path], Any], root: Path) -> int:
    """How many steps `work` has; killed before each of them, the same work must end in the bytes of a whole run."""
    work(root / "whole")
    for step in itertools.count(1):
        out = root / f"cut{step}"
        if not dies(partial(work, out), out, step):
            return step - 1
        work(out)
        assert contents(out) == contents(root / "whole"), f"killed before step {step}"
    raise AssertionError("unreachable")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """23 pictures with captions; one is broken, one has no caption, some look or read alike."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = random.Random(0)
    for n in range(23):
        file = io.BytesIO()
        like = n - 9 if n in (11, 14, 20) else n
        dots = random.Random(like).randbytes(12 * 12 * 3)
        Image.frombytes("RGB", (12, 12), dots).resize((48, 48), Image.Resampling.NEAREST).save(file, "PNG")
        (folder / f"p{n:02d}.png").write_bytes(b"broken" if n == 6 else file.getvalue())
        if n != 4:
            (folder / f"p{n:02d}.txt").write_text(f"thing {rng.randrange(18)}")
    return folder


@pytest.mark.parametrize("drop", [False, True])
def test_build_killed_at_every_step_ends_in_the_same_bytes(pictures: Path, tmp_path: Path, drop: bool) -> None:
    filters = Filters.of(drop_duplicate_captions=drop, drop_duplicate_pictures=drop)

    def work(out: Path) -> None:
        build(Folder(pictures), out, filters=filters, shards=Shards(shard_size=4, threads=1, name="x"))

    assert kills_survived(work, tmp_path) > (15 if drop else 20)
    counts = manifest.read(tmp_path / "whole").counts
    assert [counts.get(f"duplicate {what}", 0) > 0 for what in ("caption", "picture")] == [drop, drop]


@pytest.mark.parametrize("seed", [None, 4])
def test_reshard_killed_at_every_step_ends_in_the_same_bytes(
    tmp_path: Path, make_shards: Callable[..., Path], seed: int | None
) -> None:
    old = make_shards(tmp_path / "old", [7, 4, 8])
    (old / "00001.tar").write_bytes((old / "00001.tar").read_bytes()[:9000])

    def work(out: Path) -> None:
        reshard(Reshard(str(old), out, shard_size=3, shuffle=seed, name="x"))

    assert kills_survived(work, tmp_path) > 15


def test_a_run_killed_again_and_again_still_ends(pictures: Path, tmp_path: Path) -> None:
    def work(out: Path) -> None:
        build(Folder(pictures), out, shards=Shards(shard_size=4, threads=1, name="x"))

    work(tmp_path / "whole")
    kills = 0
    while dies(lambda: work(tmp_path / "cut"), tmp_path / "cut", 15):  # each run gets one shard further, or two
        kills += 1
        assert kills < 30
    assert kills >= 2
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["build", "reshard"])
def test_the_command_killed_at_any_moment_ends_in_the_same_bytes(
    tmp_path: Path, make_shards: Callable[..., Path], command: str
) -> None:
    old = make_shards(tmp_path / "old", [400] * 4)
    words = {"build": ["img2dataset", str(old)], "reshard": [str(old)]}[command]
    if command == "build":
        words[1:] = ["--path", str(old)]

    def line(out: Path) -> list[str]:
        flags = ["--shard-size", "20", "--name", "x", *(["--shuffle", "1"] if command == "reshard" else [])]
        place = [words[0], str(out), *words[1:]] if command == "build" else [*words, str(out)]
        return [sys.executable, "-m", "vlp.cli", "shards", command, *place, *flags]

    subprocess.run(line(tmp_path / "whole"), cwd=ROOT, check=True)
    rng, kills = random.Random(0), 0
    for wanted in (0, 1, 7, 20, 45, 79):
        run = subprocess.Popen(line(tmp_path / "cut"), cwd=ROOT)
        while run.poll() is None and len(list((tmp_path / "cut").glob("*.tar"))) < wanted:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        kills += run.poll() is None
        run.kill()
        run.wait()
    assert kills >= 3
    subprocess.run(line(tmp_path / "cut"), cwd=ROOT, check=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
