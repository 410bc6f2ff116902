"""Vectors that are NaN, or of two widths: one sentence with the model and the first picture or text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from eval.embeddings.split import EmbeddedSplit
from eval.run import main
from eval.tasks.retrieval import Retrieval
from eval.while_training import Validation
from vlp.errors import UserError
from vlp.models import release as releases
from vlp.models.release import Release

NAN_FROM = 3


def broken(folder: Path, *, tower: str, width: int = 32) -> Release:
    """A model whose `tower` gives NaN for all but its first rows, or vectors of another width."""
    release = releases.load(folder)

    class After(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            out = self.inner(given).clone()
            out[NAN_FROM:] = float("nan")
            return out[:, :width]

    setattr(release.encoder, tower, After(getattr(release.encoder, tower)))
    return replace(release, name="runs/mine/model")


@pytest.fixture
def of_folder(model_folder: Path, monkeypatch: pytest.MonkeyPatch):
    def use(**how: object) -> None:
        made = broken(model_folder, **how)  # type: ignore[arg-type]
        monkeypatch.setattr(releases, "load", lambda *_, **__: made)

    return use


def test_nan_pictures_name_the_model_and_the_first_of_them(of_folder, model_folder: Path, shards: Path) -> None:
    of_folder(tower="image_tower")
    with pytest.raises(UserError) as caught:
        main([str(model_folder), str(shards), "--no-cache"])
    said = str(caught.value)  # each shard of 9, 9 and 6 pictures is embedded by itself
    assert said.startswith("the model runs/mine/model gives NaN or infinity for 15 of 24, first for green_square_0 of ")
    assert "\n" not in said


def test_nan_texts_name_the_model_and_the_first_of_them(of_folder, model_folder: Path, shards: Path) -> None:
    of_folder(tower="text_tower")  # short texts are embedded before long ones
    with pytest.raises(UserError, match=r'runs/mine/model gives NaN or .*, first for the text "green circle"'):
        main([str(model_folder), str(shards), "--no-cache"])


def test_two_widths_are_told_before_anything_is_read(of_folder, model_folder: Path, shards: Path) -> None:
    of_folder(tower="text_tower", width=16)
    with pytest.raises(UserError, match="gives pictures 32 numbers and texts 16, so they cannot be compared"):
        main([str(model_folder), str(shards)])


def test_while_training_and_by_itself_too(model_folder: Path, shards: Path) -> None:
    release = broken(model_folder, tower="image_tower")
    with pytest.raises(UserError, match="first for green_square_0 of"):
        EmbeddedSplit(release, str(shards))
    validation = Validation({"r": Retrieval()}, data=(str(shards),))
    call = validation.evaluations(lambda _: release, transform=release.transform, record=None)["shapes"]
    with pytest.raises(UserError, match="first for green_square_0 of"):
        call(release.encoder)
