"""Augmentation: chance comes from the generator alone, white stays white, and nothing is the identity."""

from __future__ import annotations

import pkgutil

import pytest
import torch

import vlp.augment as package
from vlp.augment import Augment, Draws, of_rows
from vlp.augment.affine import Affine
from vlp.config import component

STILL = Affine(rotation=0, scale=(1, 1), stretch=0, shear=0, shift=0, colour=0, light=0)


def pictures(count: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(package.__path__)])
def test_the_draws_are_the_only_source_of_chance(name: str) -> None:
    augment = component(Augment, name)()
    torch.manual_seed(1)
    one = augment(pictures(), Draws.alone(4, 5))
    torch.manual_seed(2)
    assert torch.equal(one, augment(pictures(), Draws.alone(4, 5)))
    assert one.dtype == torch.uint8
    assert one.shape == (4, 3, 64, 64)


def test_without_any_change_the_picture_stays() -> None:
    out = STILL(pictures(), Draws.alone(4))
    assert (out.int() - pictures().int()).abs().max() <= 1


def test_white_stays_white_under_every_map_and_tint_but_brightness() -> None:
    white = torch.full((8, 3, 64, 64), 255, dtype=torch.uint8)
    out = Affine(light=0)(white, Draws.alone(8))
    assert out.min() >= 254


def test_a_shift_moves_the_picture_and_white_comes_in() -> None:
    black = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    out = Affine(rotation=0, scale=(0.5, 0.5), stretch=0, shear=0, shift=0, colour=0, light=0)(black, Draws.alone(1))
    assert (out == 255).float().mean().item() == pytest.approx(0.75, abs=0.06)  # half as wide and half as high


def test_the_size_is_that_of_the_model() -> None:
    assert Affine(size=48)(pictures(), Draws.alone(4)).shape == (4, 3, 48, 48)


def test_ranks_that_share_a_batch_change_it_as_one_process_does() -> None:
    whole = Affine()(pictures(6), Draws.alone(6))
    parts = [
        Affine()(pictures(6)[first : first + 2], Draws(torch.Generator().manual_seed(0), first, 2, 6))
        for first in (0, 2, 4)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_views_are_changed_one_by_one_and_alike_on_ranks_that_share_the_batch() -> None:
    views = pictures(4)[:, None].expand(4, 3, 3, 64, 64)
    whole = of_rows(Affine(size=32), views, torch.Generator().manual_seed(0))
    assert whole.shape == (4, 3, 3, 32, 32)
    assert not torch.equal(whole[:, 0], whole[:, 1])
    parts = [
        of_rows(Affine(size=32), views[first : first + 2], torch.Generator().manual_seed(0), first=first, total=4)
        for first in (0, 2)
    ]
    assert torch.equal(torch.cat(parts), whole)
    one = of_rows(Affine(), pictures(), torch.Generator().manual_seed(0))
    assert torch.equal(one, Affine()(pictures(), Draws.alone(4)))
