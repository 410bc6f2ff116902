"""Retrieval and classification through an index: flat is exact, others say what they lose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eval.embeddings.split import EmbeddedSplit
from eval.run import main
from eval.tasks.retrieval import Retrieval
from eval.tasks.zero_shot import ZeroShot
from vlp.errors import UserError
from vlp.models.release import Release

KS = (1, 3)


@pytest.fixture(scope="module")
def split(release: Release, shards: Path) -> EmbeddedSplit:
    return EmbeddedSplit(release, str(shards))


def test_flat_measures_what_brute_force_measures(split: EmbeddedSplit) -> None:
    for plain, through in (
        (Retrieval(ks=KS), Retrieval(ks=KS, index=("flat",))),
        (ZeroShot(), ZeroShot(index=("flat",))),
    ):
        assert through.measure(split) == plain.measure(split)


@pytest.mark.parametrize("kind", [("ivf", "cells=6", "probes=1"), ("hnsw", "links=4", "search_effort=1")])
def test_an_approximate_index_says_what_it_loses(split: EmbeddedSplit, kind: tuple[str, ...]) -> None:
    exact, through = (Retrieval(ks=KS, index=index).measure(split) for index in ((), kind))
    assert set(through) == {*exact, *(f"{name}/lost" for name in exact)}
    for name, measured in exact.items():
        lost = through[f"{name}/lost"]
        assert lost.value == pytest.approx(measured.value - through[name].value)
        assert (lost.better, lost.per_query.shape) == ("lower", measured.per_query.shape)
    if kind[0] == "ivf":  # one of six cells cannot have every answer
        assert max(measured.value for name, measured in through.items() if name.endswith("lost")) > 0


def test_a_perfect_index_loses_nothing(split: EmbeddedSplit) -> None:
    through = Retrieval(ks=KS, index=("ivf", "cells=4", "probes=4")).measure(split)
    assert all(measured.value == 0 for name, measured in through.items() if name.endswith("/lost"))


def test_the_index_is_a_flag_and_what_it_costs_is_in_the_table(
    model_folder: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(model_folder), str(shards), "--index", "ivf", "cells=2", "probes=2"]
    assert main([*words, "--languages", "en"]) == 0
    table = capsys.readouterr().out
    assert "en/text_to_image/recall@1/lost" in table
    assert "subgroup/acc1/lost" in table


def test_unknown_kinds_and_settings_are_refused_before_anything_is_read() -> None:
    with pytest.raises(UserError, match='did you mean "hnsw"'):
        Retrieval(index=("hnws",))
    with pytest.raises(UserError, match='an index of kind flat has no option "probes"'):
        ZeroShot(index=("flat", "probes=3"))


def test_a_collapsed_model_scores_nothing_through_an_index(split: EmbeddedSplit) -> None:
    image = np.ones_like(split.image) / np.sqrt(split.image.shape[1])
    collapsed = EmbeddedSplit.of(split, split.release, [image])
    for index in ((), ("flat",)):
        found = Retrieval(ks=(1,), languages=("en",), index=index).measure(collapsed)
        assert found["en/text_to_image/recall@1"].value == 0
