"""Evaluations under way: the numbers of a report, pictures decoded once, bad tasks refused at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from data_pipelines.sample import Sample
from eval.configuration import EvalConfig, read
from eval.datasets.shards import Shards
from eval.run import evaluate
from eval.tasks import Task
from eval.tasks.retrieval import Retrieval
from eval.tasks.zero_shot import ZeroShot
from eval.while_training import Validation, read_words
from vlp.errors import UserError
from vlp.models.release import Release

TASKS: dict[str, Task] = {"retrieval": Retrieval(ks=(1, 3)), "shapes": ZeroShot(label="subgroup")}


def evaluations(validation: Validation, release: Release, record: Path | None = None) -> dict[str, Callable]:
    def as_release(model: nn.Module) -> Release:
        assert model is release.encoder
        return release

    return validation.evaluations(as_release, transform=release.transform, record=record)


@pytest.mark.parametrize("cache_bytes", [0, 40_000, 1 << 30])
def test_the_numbers_are_those_of_a_report_whatever_is_cached(release: Release, shards: Path, cache_bytes: int) -> None:
    validation = Validation(TASKS, data=(str(shards),), cache_bytes=cache_bytes)
    calls = evaluations(validation, release)
    tree = evaluate(release, replace(read(data=[str(shards)]), tasks=TASKS))
    first = calls["shapes"](release.encoder)
    assert {f"shapes/{name}": round(value, 6) for name, value in first.items()} == tree["metrics"]
    assert calls["shapes"](release.encoder) == first


def test_pictures_are_decoded_once_and_embedded_once_an_evaluation(release: Release, shards: Path) -> None:
    call = evaluations(Validation(TASKS, data=(str(shards),)), release)["shapes"]
    seen: list[int] = []
    hook = release.encoder.image_tower.register_forward_hook(lambda _, given, out: seen.append(len(given[0])))
    first = call(release.encoder)
    assert sum(seen) == 24  # two tasks, one pass
    kept = call.pictures  # type: ignore[attr-defined]
    assert all(sample.image == b"" for part in kept.parts for sample in part.samples)  # nothing left to decode
    assert call(release.encoder) == first
    assert sum(seen) == 48
    hook.remove()


def test_memory_for_pictures_stays_within_its_bound(release: Release, shards: Path) -> None:
    size = 3 * 32 * 32
    call = evaluations(Validation(TASKS, data=(str(shards),), cache_bytes=10 * size), release)["shapes"]
    call(release.encoder)
    kept = [part for part in call.pictures.parts if part.pixels is not None]  # type: ignore[attr-defined]
    assert [len(part.samples) for part in kept] == [9]  # the first shard's fit, the second's would not


def test_a_model_that_changes_is_measured_anew(release: Release, other_model: Path, shards: Path) -> None:
    from vlp.models import release as releases

    models = [release, releases.load(other_model)]
    validation = Validation(TASKS, data=(str(shards),))
    by_encoder = {id(m.encoder): m for m in models}
    calls = validation.evaluations(lambda m: by_encoder[id(m)], transform=release.transform, record=None)
    for model in models:
        tree = evaluate(model, replace(read(data=[str(shards)]), tasks=TASKS))
        numbers = calls["shapes"](model.encoder)
        assert {f"shapes/{name}": round(value, 6) for name, value in numbers.items()} == tree["metrics"]


def test_undecodable_pictures_are_left_out_and_counted_once(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    broken = [
        replace(sample, image=b"\x89PNG no picture") if i in (2, 11) else sample for i, sample in enumerate(samples)
    ]
    folder = write(tmp_path / "broken", broken)
    call = evaluations(Validation(TASKS, data=(str(folder),), cache_bytes=0), release)["broken"]
    first = call(release.encoder)
    assert call(release.encoder) == first
    assert call.pictures.split.skipped.by_reason() == {"undecodable picture": 2}  # type: ignore[attr-defined]
    tree = evaluate(release, replace(read(data=[str(folder)]), tasks=TASKS))
    assert {f"broken/{name}": round(value, 6) for name, value in first.items()} == tree["metrics"]


def test_words_for_the_numbers_are_written_once(release: Release, shards: Path, tmp_path: Path) -> None:
    record = tmp_path / "validation.json"
    call = evaluations(Validation(TASKS, data=(str(shards),)), release, record)["shapes"]
    assert not record.exists()
    numbers = call(release.encoder)
    words = read_words(record)
    assert set(words) == {f"shapes/{name}" for name in numbers}
    assert words["shapes/zh/text_to_image/recall@3"] == {
        "label": ["Chinese", "caption → picture"],
        "measure": "R@3",
        "unit": "share",
        "primary": False,
    }
    assert words["shapes/subgroup/acc1"]["primary"]
    record.write_text(json.dumps({}))
    call(release.encoder)
    assert read_words(record) == {}


@pytest.fixture
def plain(samples: list[Sample], write: Callable[..., Path], tmp_path: Path) -> str:
    """Shards whose pictures have an artist and nothing else."""
    artists = [replace(sample, metadata={"artist": sample.metadata["artist"]}) for sample in samples]
    return str(write(tmp_path / "plain", artists))


@pytest.mark.parametrize(
    "task, sentence",
    [
        (Retrieval(languages=("fr",)), 'no captions in "fr"'),
        (ZeroShot(), 'the task "mine" has nothing to measure'),
        (ZeroShot(label="artist_"), 'no classes in the field "artist_"'),
    ],
)
def test_a_task_without_anything_to_measure_is_refused_before_training(
    task: Task, sentence: str, release: Release, plain: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        evaluations(Validation({"mine": task}, data=(plain,)), release)


def test_a_dataset_is_measured_while_training_as_in_a_report(release: Release, shards: Path) -> None:
    datasets = {"things": Shards(root=str(shards), label="artist")}
    tasks: dict[str, Task] = {"zero_shot": ZeroShot()}
    calls = evaluations(Validation(tasks, datasets=datasets), release)
    tree = evaluate(release, EvalConfig(tasks, datasets=datasets))
    first = calls["things"](release.encoder)
    assert {f"things/{name}": round(value, 6) for name, value in first.items()} == tree["metrics"]
    assert "things/artist/acc1" in tree["metrics"]
