"""Runs that look at more pairs than they train on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import choosing_cases
import gloo_ranks
import pytest
import torch
from choosing_cases import BASE, HOW, STEPS, Known, run
from tiny_run import Tiny, TinyStream, pairs
from torch import Tensor

from vlp.batch import Batch, Embeddings
from vlp.errors import UserError
from vlp.losses._engine.peers import ALONE
from vlp.training.choosing import Choosing
from vlp.training.teaching import Setting


class Stop(Exception):
    pass


class Breaks(TinyStream):
    """A stream whose machine fails after some batches."""

    left = 2

    def __iter__(self):  # type: ignore[no-untyped-def]
        for batch in super().__iter__():
            self.left -= 1
            if self.left < 0:
                raise Stop
            yield batch


def weights(fitted: Any) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in fitted.model.parameters()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, weights(run(folder).fit())


def test_pairs_trained_and_pairs_looked_at_are_two_numbers(whole: tuple[Path, Tensor]) -> None:
    rows = [json.loads(line) for line in (whole[0] / "metrics.jsonl").read_text().splitlines()]
    assert [row["samples"] for row in rows] == [16 * n for n in range(1, STEPS + 1)]
    assert [row["samples_looked_at"] for row in rows] == [64 * n for n in range(1, STEPS + 1)]


def test_the_cached_step_encodes_what_was_chosen_once_and_gives_the_same_weights(
    whole: tuple[Path, Tensor], tmp_path: Path
) -> None:
    chunked = run(tmp_path, training=replace(BASE, chunk=4))
    calls: list[bool] = []
    chunked.model.register_forward_hook(lambda model, given, out: calls.append(out.image.requires_grad))  # type: ignore[attr-defined]
    assert (weights(chunked.fit()) - whole[1]).abs().max() < 1e-11
    without_graph = STEPS * 64 // 4 * 2 + 2  # both towers of all candidates; and of a few pairs once, to compare
    assert len(calls) == without_graph + STEPS * 16 // 4 * 2


@pytest.mark.parametrize("model,steady", [(Tiny(dropout=0.0, norm=False), True), (Tiny(norm=False), False)])
def test_features_are_used_again_where_training_does_not_change_them(model: Tiny, steady: bool) -> None:
    guide = Known()
    guide.begin(model, Setting(torch.device("cpu")))
    choosing = Choosing(HOW, guide, ALONE, batch=16)
    chosen = choosing(model, pairs(0, 64), (0, 0))
    assert len(chosen.batch) == 16
    assert chosen.batch.keys == tuple(pairs(0, 64).keys[n] for n in rows_of(chosen.batch.keys))
    assert (choosing.reusable(model, chosen, bool) is not None) == steady
    assert model.training


def rows_of(keys: tuple[str, ...]) -> list[int]:
    assert list(map(int, keys)) == sorted(map(int, keys))
    return [int(key) for key in keys]


def test_a_run_that_broke_off_chooses_the_same_when_it_goes_on(whole: tuple[Path, Tensor], tmp_path: Path) -> None:
    saved = replace(BASE, checkpoint_every=0.0)
    broken = replace(run(tmp_path, training=saved), open_stream=lambda state: Breaks(state, batch=64))
    with pytest.raises(Stop):
        broken.fit()
    assert (weights(run(tmp_path, training=saved).fit()) - whole[1]).abs().max() == 0
    with pytest.raises(UserError, match=r"choose.blocks = 8 does not divide"):
        run(tmp_path / "other", choose=replace(HOW, blocks=8), training=replace(BASE, batch=12)).fit()
    shutil.rmtree(tmp_path)


class Silent(Known):
    compares = False


class Twice(Known):
    def __call__(self, batch: Batch, e: Embeddings) -> tuple[Tensor, Tensor]:
        return super().__call__(batch, e)[:1] * 2


@pytest.mark.parametrize("guide", [Silent(), Twice()])
def test_a_teacher_that_says_the_same_of_both_sides_cannot_choose(guide: Known, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot tell which pairs are good ones"):
        run(tmp_path, guide=guide).fit()


def test_candidates_are_looked_at_by_their_first_view_and_caption() -> None:
    model, guide = Tiny(dropout=0.0, norm=False), Known()
    guide.begin(model, Setting(torch.device("cpu")))
    plain, other = pairs(0, 64), pairs(64, 128)
    choosing = Choosing(HOW, guide, ALONE, batch=16)
    want = choosing(model, plain, (0, 0)).batch
    text, image = torch.stack([plain.text, other.text], 1), torch.stack([plain.image, other.image], 1)
    several = choosing(model, replace(plain, text=text, image=image), (0, 0))
    assert several.batch.keys == want.keys
    assert several.batch.image.shape[1] == several.batch.text.shape[1] == 2
    assert torch.equal(several.batch.text[:, 0], want.text)
    assert choosing.reusable(model, several, bool) is None


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("chunk", [0, 2])
def test_ranks_train_on_the_pairs_of_one_process(
    size: int, chunk: int, whole: tuple[Path, Tensor], tmp_path: Path
) -> None:
    answers = gloo_ranks.run(size, choosing_cases.train, chunk, str(tmp_path), folder=tmp_path)
    for answer in answers:
        assert (torch.tensor(answer) - whole[1]).abs().max() < 1e-11
