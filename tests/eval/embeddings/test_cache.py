"""Embeddings that are kept: the same numbers without the model, nothing that is damaged, never more than the limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipelines.sample import Sample
from eval.configuration import read
from eval.embeddings.cache import EmbeddingCache, cached, identity, name_of_pictures, name_of_texts
from eval.embeddings.split import KeptSplit
from eval.embeddings.together import Ranks
from eval.run import main, measure
from vlp.errors import UserError
from vlp.models import release as releases
from vlp.models.release import Release


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "kept")


class Counted:
    """How many pictures and texts go through a model."""

    def __init__(self, release: Release) -> None:
        self.pictures = self.texts = 0
        release.encoder.image_tower.register_forward_hook(self._picture)
        release.encoder.text_tower.register_forward_hook(self._text)

    def _picture(self, module: object, given: tuple[torch.Tensor], out: object) -> None:
        self.pictures += len(given[0])

    def _text(self, module: object, given: tuple[torch.Tensor], out: object) -> None:
        self.texts += len(given[0])


def values(parts: list) -> dict[str, float]:
    return {name: m.value for part in parts for name, m in part.measured.items()}


def test_a_second_evaluation_embeds_nothing_and_gives_the_same(
    model_folder: Path, samples: list[Sample], write: Callable[..., Path], tmp_path: Path, cache: EmbeddingCache
) -> None:
    some = [replace(s, image=b"\x89PNG none") if i in (2, 21) else s for i, s in enumerate(samples)]
    data = str(write(tmp_path / "broken", some))
    results, counts = [], []
    for _ in range(2):
        release = releases.load(model_folder)
        counted = Counted(release)
        parts = measure(cached(release, cache, Ranks()), read(data=[data]))
        results.append((values(parts), parts[0].split.skipped.state(), [s.key for s in parts[0].split.samples]))
        counts.append((counted.pictures, counted.texts))
    assert results[0] == results[1]
    assert results[0][1]["drops"][0][0] == "undecodable picture"
    assert results[0][0] == values(measure(cached(releases.load(model_folder), None, Ranks()), read(data=[data])))
    assert counts[0][0] == 22 + 1
    assert counts[1] == (1, 1)  # the picture and the text that show how wide the model's vectors are


def test_whatever_changes_asks_for_another_name(
    release: Release, other_model: Path, samples: list[Sample], tmp_path: Path
) -> None:
    first = identity(release)
    other = releases.load(other_model)
    half = replace(release, encoder=releases.load(release.name).encoder.bfloat16())
    resized = replace(release, transform=replace(release.transform, size=40))
    names = {
        name_of_pictures(model, some)
        for model in (first, identity(other), identity(half), identity(resized))
        for some in (samples[:3], samples[:2], samples[2::-1], [replace(samples[0], image=samples[5].image)])
    }
    assert len(names) == 16
    moved = [replace(s, key=f"moved_{s.key}", metadata={}) for s in samples[:3]]
    assert name_of_pictures(first, moved) == name_of_pictures(first, samples[:3])
    tokens = release.tokenizer(["red circle", "blue square"])
    assert name_of_texts(first, tokens) != name_of_texts(first, tokens.flip(0))
    assert identity(replace(release, id="")) == ""


def test_a_damaged_file_is_removed_and_embedded_again(
    release: Release, shards: Path, cache: EmbeddingCache, caplog: pytest.LogCaptureFixture
) -> None:
    def embedded() -> np.ndarray:
        return KeptSplit(str(shards), release.transform, 0, cache=cache).embedded(release).image

    whole = embedded()
    files = sorted(path for path in cache.folder.rglob("*") if path.is_file())
    assert len(files) == 3
    for path, damage in zip(files, (b"", b"x" * 70, path_flipped(files[2])), strict=True):
        path.write_bytes(damage)
    assert (embedded() == whole).all()
    assert sum("is damaged" in message for message in caplog.messages) == 3
    before = (cache.hits, cache.misses)
    assert (embedded() == whole).all()
    assert (cache.hits - before[0], cache.misses - before[1]) == (3, 0)


def path_flipped(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    return bytes(data)


def test_never_more_than_the_limit_and_the_oldest_go_first(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, limit=40_000)
    vectors = np.ones((10, 100), np.float32)  # 4 kB
    for number in range(30):
        cache.put(f"{number:02d}{'0' * 62}", vectors + number, rows=[number])
        os.utime(tmp_path / f"{number:02d}" / ("0" * 62), ns=(number, number))
        if number >= 4:
            assert cache.get(f"04{'0' * 62}") is not None  # used again and again
        assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) <= 40_000
    assert cache.get("00" + "0" * 62) is None
    kept = cache.get("29" + "0" * 62)
    assert kept is not None
    assert (kept.vectors == vectors + 29).all()
    assert kept.about == {"rows": [29]}
    assert EmbeddingCache(tmp_path, limit=40_000)._bytes == cache._bytes


def test_texts_are_kept_in_the_batches_of_one_process(release: Release, cache: EmbeddingCache) -> None:
    texts = [f"a {colour} circle {n}" for n in range(300) for colour in ("red", "blue")]
    expected = release.embed_texts(texts)
    for _ in range(2):
        assert (cached(release, cache, Ranks()).embed_texts(texts) == expected).all()
    assert (cache.hits, cache.misses) == (2, 2)
    assert cached(release, cache, Ranks()).embed_texts([]).shape == (0, 32)


def test_a_folder_that_cannot_be_written_is_one_sentence(model_folder: Path, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/kept cannot be written to"):
        main([str(model_folder), str(shards), "--cache", str(tmp_path / "file" / "kept")])
    assert main([str(model_folder), str(shards), "--no-cache"]) == 0


SLOW_MODEL = """
import sys, time
import torch
from vlp.models.release import Release
from eval import run

embed = Release.embed_pixels

def slowly(self, image, batch=256):
    time.sleep(0.25)
    print("embedded", len(image), flush=True)
    return embed(self, image, batch)

Release.embed_pixels = slowly
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_after_kill_9_an_evaluation_goes_on_where_it_was(
    model_folder: Path, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    """Killed again and again after some blocks, it embeds no block twice but the one that it was killed in."""
    data = str(write(tmp_path / "data", samples, per_shard=2))  # 12 blocks
    (tmp_path / "program.py").write_text(SLOW_MODEL)
    command = [sys.executable, str(tmp_path / "program.py"), str(model_folder), data]
    command += ["--cache", str(tmp_path / "kept"), "--out", str(tmp_path / "out")]
    blocks, kills = 0, 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        own = 0
        for line in process.stdout:
            if line.startswith("embedded 2"):
                own += 1
                if own == 4 and kills < 3:
                    time.sleep(0.1)  # in the middle of a block, or of its file
                    os.kill(process.pid, signal.SIGKILL)
                    break
        status = process.wait()
        blocks += own
        if status == 0:
            break
        assert status == -signal.SIGKILL
        kills += 1
    assert kills in {2, 3}
    assert 12 <= blocks <= 12 + kills
    resumed = json.loads((tmp_path / "out" / "report.json").read_text())["metrics"]
    whole = [str(model_folder), data, "--no-cache", "--out", str(tmp_path / "whole")]
    assert main(whole) == 0
    assert json.loads((tmp_path / "whole" / "report.json").read_text())["metrics"] == resumed
