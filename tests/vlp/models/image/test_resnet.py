"""The residual tower: its norms, and sizes that make no tower."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vlp.errors import UserError
from vlp.models.image.resnet import ResNet


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_norms_that_see_one_picture_give_it_the_same_features_in_any_batch(norm: str) -> None:
    torch.manual_seed(0)
    tower = ResNet(norm=norm, widths=(16, 32), depths=(1, 1)).build(8, 32).train()  # type: ignore[arg-type]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in tower.modules())
    image = torch.randn(6, 3, 32, 32)
    assert torch.allclose(tower(image)[:2], tower(image[:2]), atol=1e-5)


def test_batch_norms_do_not() -> None:
    torch.manual_seed(0)
    tower = ResNet(widths=(16, 32), depths=(1, 1)).build(8, 32).train()
    image = torch.randn(6, 3, 32, 32)
    assert not torch.allclose(tower(image)[:2], tower(image[:2]), atol=1e-3)


def test_sizes_that_make_no_tower() -> None:
    with pytest.raises(UserError, match="2 widths and 1 depths"):
        ResNet(widths=(8, 16), depths=(1,))
    with pytest.raises(UserError, match="pictures of 8 px are too small"):
        ResNet().build(8, 8)
