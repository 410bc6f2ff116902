"""Calibration of zero-shot classification, against the definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipelines.sample import Sample
from eval.embeddings.split import EmbeddedSplit
from eval.prompts.classifier import classifier
from eval.tasks.calibration import Calibration
from eval.tasks.zero_shot import ZeroShot
from vlp.errors import UserError
from vlp.models.release import Release


def test_error_and_likelihood_are_those_of_the_softmax_of_scaled_cosines(release: Release, shards: Path) -> None:
    split = EmbeddedSplit(release, str(shards))
    result = Calibration(bins=10).measure(split)
    scale = release.encoder.logit_scale.detach().exp().item()
    cosines = split.image @ classifier(release, ["circle", "square"], "picture").T
    probability = torch.softmax(scale * torch.from_numpy(cosines).double(), dim=1).numpy()
    labels = np.array([["circle", "square"].index(s.metadata["subgroup"]) for s in split.samples])
    confidence, hits = probability.max(axis=1), probability.argmax(axis=1) == labels
    error = 0.0
    for m in range(10):
        inside = (confidence > m / 10) & (confidence <= (m + 1) / 10)
        if inside.any():
            error += inside.mean() * abs(hits[inside].mean() - confidence[inside].mean())
    assert result["subgroup/ece"].value == pytest.approx(error, abs=1e-6)
    assert result["subgroup/nll"].value == pytest.approx(-np.log(probability[range(24), labels]).mean(), abs=1e-5)
    bins = result["subgroup/ece"].detail["bins"]
    assert sum(one["count"] for one in bins) == 24
    accuracy = sum(one["count"] * one["accuracy"] for one in bins) / 24
    assert accuracy == pytest.approx(ZeroShot().measure(split)["subgroup/acc1"].value)
    assert (result["subgroup/ece"].better, Calibration().primary) == ("lower", "subgroup/ece")


def test_several_classes_of_a_picture_are_refused(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    several = [replace(s, metadata={"what": s.captions["en"].split()}) for s in samples]
    split = EmbeddedSplit(release, str(write(tmp_path / "s", several)))
    with pytest.raises(UserError, match='cannot be calibrated: it has pictures of several classes in the field "what"'):
        Calibration(label="what").measure(split)
