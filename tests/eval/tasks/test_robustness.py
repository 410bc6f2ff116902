"""Robustness: the pictures that are measured are the corrupted ones, and the numbers are those of the other task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipelines.sample import Sample
from eval.configuration import read
from eval.corruptions.impulse_noise import ImpulseNoise
from eval.embeddings.read_again import pixels_again
from eval.embeddings.split import EmbeddedSplit, KeptSplit, Split
from eval.tasks import Task
from eval.tasks.retrieval import Retrieval
from eval.tasks.robustness import Robustness
from eval.tasks.zero_shot import ZeroShot
from vlp.config import build, to_tree
from vlp.errors import UserError
from vlp.models.release import Release
from vlp.pictures import Limits, decode


@pytest.fixture(scope="module")
def split(release: Release, shards: Path) -> EmbeddedSplit:
    return EmbeddedSplit(release, str(shards))


def test_each_value_is_that_of_the_task_on_pictures_corrupted_by_hand(
    split: EmbeddedSplit, samples: list[Sample]
) -> None:
    task = Robustness(of=ZeroShot(), corruptions=("impulse_noise", "contrast"), strengths=(2, 5), seed=3)
    result = task.measure(split)
    clean = ZeroShot(seed=3).measure(split)["subgroup/acc1"]
    values = []
    for strength in (2, 5):
        pixels = [
            ImpulseNoise()(split.release.transform(decode(s.image, Limits())), strength, key=s.key, seed=3)
            for s in samples
        ]
        image = np.asarray(split.release.embed_pixels(torch.stack(pixels)))
        values.append(ZeroShot().measure(EmbeddedSplit.of(split, split.release, [image]))["subgroup/acc1"].value)
    noise = result["robustness/subgroup/acc1/impulse_noise"]
    assert noise.detail == {"strengths": [2, 5], "values": pytest.approx(values)}
    assert noise.value == pytest.approx(np.mean(values))
    assert result["robustness/subgroup/acc1/clean"].value == clean.value
    both = np.mean([noise.value, result["robustness/subgroup/acc1/contrast"].value])
    assert result["robustness/subgroup/acc1/corrupted"].value == pytest.approx(both)
    assert result["robustness/subgroup/acc1/relative"].value == pytest.approx(both / clean.value)
    assert task.primary in result


def test_another_task_can_be_measured(split: EmbeddedSplit) -> None:
    task = Robustness(of=Retrieval(languages=("en",)), metric="en/text_to_image/recall@5", corruptions=("jpeg",))
    result = task.measure(split)
    clean = Retrieval(languages=("en",)).measure(split)["en/text_to_image/recall@5"]
    assert result["robustness/en/text_to_image/recall@5/clean"].value == clean.value
    assert result["robustness/en/text_to_image/recall@5/jpeg"].queries_by == clean.queries_by
    with pytest.raises(UserError, match="give metric one of: en/image_to_text/recall@1"):
        Robustness(of=Retrieval(languages=("en",)), metric="en/recall", corruptions=("jpeg",)).measure(split)
    with pytest.raises(UserError, match='no corruption is called "rain"'):
        Robustness(corruptions=("rain",)).measure(split)


def test_a_preset_says_which_task(split: EmbeddedSplit) -> None:
    task = build(Task, {"name": "robustness", "of": {"name": "retrieval", "ks": [1]}, "corruptions": ["fog"]})
    assert task == Robustness(of=Retrieval(ks=(1,)), corruptions=("fog",))
    assert to_tree(task)["of"]["name"] == "retrieval"


def test_the_same_pictures_are_read_again_whatever_was_kept_of_them(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    """One cannot be decoded; the bytes of the others were let go when they were decoded."""
    some = [replace(s, image=b"\x89PNG nothing") if n == 4 else s for n, s in enumerate(samples)]
    folder = str(write(tmp_path / "s", some))
    kept = KeptSplit(folder, release.transform, cache_bytes=1 << 30)
    split = kept.embedded(release)
    assert not any(s.image for s in split.samples)
    rows = []
    for part, pixels in pixels_again(split):
        assert np.asarray(release.embed_pixels(pixels)) == pytest.approx(split.image[part], abs=1e-6)
        rows += range(part.start, part.stop)
    assert rows == list(range(23))


def test_a_dataset_that_changed_meanwhile_is_refused(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    split = EmbeddedSplit(release, str(write(tmp_path / "s", samples)))
    split.samples[20] = replace(split.samples[20], key="another")
    with pytest.raises(UserError, match="20 of 24 pictures are as they were"):
        list(pixels_again(split))


def test_the_preset_leaves_out_what_a_dataset_has_not(split: EmbeddedSplit) -> None:
    silent = Split(split.dataset, [replace(sample, captions={}, txt="") for sample in split.samples])
    tasks = read(["robustness"]).tasks
    assert tasks["retrieval"].unfit(silent) == "it has no captions"
    assert tasks["classification"].unfit(silent) == ""
