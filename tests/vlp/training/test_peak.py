"""Operations of a step, counted, against paper and pencil."""

from __future__ import annotations

import torch

from vlp.batch import Batch
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.text.bag import Bag
from vlp.training.peak import matmul_peak, step_flops


def test_operations_are_those_of_the_matrix_products() -> None:
    """A text tower of one MLP (32 -> 64 -> 32) and a head (32 -> 16); 2 operations a product, three passes.

    The first layer's input comes from the embedding and needs its gradient, so nothing is left out.
    """
    encoder = TwoTowers(width=16, image_size=32, text=Bag(hidden=32)).build(300)
    image = encoder.image_tower
    encoder.image_tower = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 16))
    del image
    batch = Batch(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.ones(4, 5, dtype=torch.int64), ("a",) * 4)
    text = 4 * 2 * (2 * 32 * 64 + 32 * 16)
    pictures = 4 * 2 * 3 * 16
    assert step_flops(encoder, batch) == 3 * text + 2 * pictures  # pictures need no gradient
    assert all(p.grad is None for p in encoder.parameters())


def test_the_peak_is_no_less_than_what_a_small_product_reaches() -> None:
    peak = matmul_peak(torch.device("cpu"), torch.float32)
    assert peak > 1e8
