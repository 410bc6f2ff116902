"""Health of embeddings, against the definitions."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from eval.embeddings.split import EmbeddedSplit
from eval.tasks.health import Health
from vlp.models.release import Release


def test_measures_equal_their_definitions(release: Release, shards: Path) -> None:
    split = EmbeddedSplit(release, str(shards))
    result = Health(languages=("en",)).measure(split)
    image = split.image.astype(float)
    text = np.asarray(release.embed_texts([s.captions["en"] for s in split.samples])).astype(float)
    value = {name.removeprefix("en/health/"): measured.value for name, measured in result.items()}
    assert value["alignment"] == pytest.approx(np.mean(((image - text) ** 2).sum(axis=1)))
    assert value["modality_gap"] == pytest.approx(np.linalg.norm(image.mean(axis=0) - text.mean(axis=0)))
    for tower, x in (("image", image), ("text", text)):
        pairs = [np.exp(-2 * ((a - b) ** 2).sum()) for a, b in combinations(x, 2)]
        assert value[f"uniformity_{tower}"] == pytest.approx(np.log(np.mean(pairs)), abs=1e-5)
        share = np.linalg.svd(x, compute_uv=False)
        share = share[share > 1e-7] / share.sum()
        assert value[f"effective_rank_{tower}"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-3)
    for measured in result.values():
        assert measured.interval[0] <= measured.value <= measured.interval[1]
    by_chance = np.mean([((image[i] - text[j]) ** 2).sum() for i in range(24) for j in range(24)])
    assert result["en/health/alignment"].chance == pytest.approx(by_chance, abs=1e-4)
