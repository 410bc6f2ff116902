"""The bar of evaluation: the rate it shows is what was done by the time it took."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL.Image import Image
from torch import Tensor

from eval.embeddings.split import KeptSplit
from eval.progress_bar import Pace, progress_bar
from vlp.models.image_transform import ImageTransform
from vlp.models.release import Release


def rate(words: str) -> float:
    return float(re.search(r"([\d,.]+) pictures/s", words)[1].replace(",", ""))


def test_the_rate_is_what_was_done_by_the_time_it_took() -> None:
    began, pace = time.monotonic(), Pace()
    assert pace.words(100, "pictures") == ""
    for _ in range(3):  # work first, then a burst of calls, as batches make them
        time.sleep(0.1)
        pace.advance(20)
        pace.advance(0)
    assert rate(pace.words(None, "pictures")) == pytest.approx(60 / (time.monotonic() - began), rel=0.1)
    pace.began -= 60
    assert re.fullmatch(r"(1|0\.99) pictures/s · 0:(39|40|41) to go", pace.words(100, "pictures"))


ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Slow:
    """A preparation of pictures that takes 20 ms for each, one at a time however many threads decode."""

    transform: ImageTransform
    size: int = 32

    def __call__(self, picture: Image) -> Tensor:
        with ONE_AT_A_TIME:
            time.sleep(0.02)
        return self.transform(picture)


def test_pictures_count_as_done_when_they_are_embedded(
    release: Release, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    KeptSplit(str(shards), Slow(release.transform), cache_bytes=0).embedded(release, bar=True)  # type: ignore[arg-type]
    assert 1 < rate(capsys.readouterr().err) < 50


def test_brackets_in_a_name_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("embedding [/red]", 1) as advance:
        advance(1)
    assert "embedding [/red]" in capsys.readouterr().err
