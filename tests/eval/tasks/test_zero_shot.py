"""Zero-shot classification, against the definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.embeddings.split import EmbeddedSplit
from eval.metrics.average_precision import average_precision_reference
from eval.prompts.classifier import classifier, prompts
from eval.tasks.zero_shot import ZeroShot
from vlp.errors import UserError
from vlp.models.release import Release

COLOURS, SHAPES = ("red", "green", "blue", "gold", "black", "pink"), ("circle", "square")


@pytest.fixture(scope="module")
def split(release: Release, shards: Path) -> EmbeddedSplit:
    return EmbeddedSplit(release, str(shards))


def test_accuracy_equals_a_count_by_hand(split: EmbeddedSplit) -> None:
    task = ZeroShot()
    found = task.measure(split)
    classes = ["circle", "square"]
    labels = np.array([classes.index(sample.metadata["subgroup"]) for sample in split.samples])
    said = (split.image @ classifier(split.release, classes, "picture").T).argmax(axis=1)
    assert found[task.primary].value == pytest.approx((said == labels).mean())
    assert found["subgroup/mean_per_class_recall"].value == pytest.approx(
        np.mean([(said == labels)[labels == c].mean() for c in (0, 1)])
    )
    assert "subgroup/acc5" not in found  # of two classes
    detail = found[task.primary].detail
    assert (detail["classes"], detail["labels"], detail["predicted"]) == (classes, labels.tolist(), said.tolist())
    assert (found["subgroup/mean_per_class_recall"].groups == labels).all()
    assert (found["subgroup/mean_per_class_recall"].per_query == (said == labels)).all()
    assert found[task.primary].queries_by == tuple(sample.key for sample in split.samples)
    assert (found[task.primary].candidates, found[task.primary].chance) == (2, pytest.approx(0.5))


def test_five_classes_have_an_acc5(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    named = [replace(s, metadata={"colour": s.captions["en"].split()[0]}) for s in samples]
    split = EmbeddedSplit(release, str(write(tmp_path / "s", named)))
    found = ZeroShot(label="colour").measure(split)["colour/acc5"]
    classes = sorted({s.metadata["colour"] for s in named})
    order = np.argsort(-(split.image @ classifier(release, classes, "picture").T), axis=1)[:, :5]
    expected = [s.metadata["colour"] in [classes[c] for c in row] for s, row in zip(named, order, strict=True)]
    assert found.value == pytest.approx(np.mean(expected))
    assert found.chance == pytest.approx(5 / 6)


def test_of_several_classes_a_picture_map_is_measured(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    """Each picture has its colour and its shape for classes, but for one that has none."""
    several = [replace(s, metadata={"what": s.captions["en"].split()}) for s in samples]
    several[0] = replace(several[0], metadata={})
    split = EmbeddedSplit(release, str(write(tmp_path / "s", several)))
    found = ZeroShot(label="what").measure(split)
    classes = sorted({*COLOURS, *SHAPES})
    scores = split.image[1:] @ classifier(release, classes, "picture").T
    expected = [
        average_precision_reference(scores[:, c], np.array([name in s.metadata["what"] for s in several[1:]]))
        for c, name in enumerate(classes)
    ]
    assert list(found) == ["what/mean_average_precision"]
    assert found["what/mean_average_precision"].per_query == pytest.approx(expected)
    assert found["what/mean_average_precision"].queries_by == tuple(classes)
    share = (6 * 4 + 2 * 12 - 2) / 8 / 23  # pictures of a class on average, without the first one's
    assert found["what/mean_average_precision"].chance == pytest.approx(share)


def test_a_class_vector_is_the_normalised_mean_of_its_templates(release: Release) -> None:
    vectors = classifier(release, ["red-circle"], "picture")
    each = np.asarray(release.embed_texts(prompts(["red-circle"], "picture")[0]))
    assert len(each) > 3
    assert vectors[0] == pytest.approx(each.mean(axis=0) / np.linalg.norm(each.mean(axis=0)), abs=1e-5)


def test_templates_of_open_clip_and_unknown_ones() -> None:
    assert len(prompts(["cat"], "imagenet_80")[0]) == 80
    with pytest.raises(UserError, match="imagenet_7"):
        prompts(["cat"], "imagnet")


def test_a_field_without_classes_is_refused(split: EmbeddedSplit) -> None:
    with pytest.raises(UserError, match=r'no classes in the field "nothing".*: artist, subgroup'):
        ZeroShot(label="nothing").measure(split)
