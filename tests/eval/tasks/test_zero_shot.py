"""Zero-shot classification, against the definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eval.embeddings.split import EmbeddedSplit
from eval.prompts.classifier import classifier, prompts
from eval.tasks.zero_shot import ZeroShot
from vlp.errors import UserError
from vlp.models.release import Release


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
    assert found["subgroup/acc5"].value == 1  # of two classes
    detail = found[task.primary].detail
    assert (detail["classes"], detail["labels"], detail["predicted"]) == (classes, labels.tolist(), said.tolist())
    assert (found["subgroup/mean_per_class_recall"].groups == labels).all()
    assert (found["subgroup/mean_per_class_recall"].per_query == (said == labels)).all()
    assert found[task.primary].queries_by == tuple(sample.key for sample in split.samples)
    assert (found[task.primary].candidates, found[task.primary].chance) == (2, pytest.approx(0.5))


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
