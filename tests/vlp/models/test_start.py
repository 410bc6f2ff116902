"""Scale and bias at the start: the objective's, unless the configuration or pretrained weights say another."""

from __future__ import annotations

import math

import pytest
import torch

from vlp.batch import Embeddings
from vlp.losses.infonce import InfoNCE
from vlp.losses.siglip import SigLIP
from vlp.models.image.resnet import ResNet
from vlp.models.kinds.open_clip import OpenClip
from vlp.models.kinds.two_towers import TwoTowers

SMALL = ResNet(widths=(8,), depths=(1,))


def test_new_weights_start_as_the_paper_of_the_loss_does() -> None:
    for loss, scale, bias in ((InfoNCE(), 1 / 0.07, 0.0), (SigLIP(), 10.0, -10.0)):
        model = TwoTowers(width=8, image=SMALL)
        encoder = model.build(300)
        model.start(encoder, scale=loss.start_scale, bias=loss.start_bias)
        assert encoder.logit_scale.exp().item() == pytest.approx(scale, rel=1e-6)
        assert encoder.logit_bias.item() == bias


def test_what_the_configuration_says_stays() -> None:
    model = TwoTowers(width=8, image=SMALL, temperature=0.1, bias=-3.0)
    encoder = model.build(300)
    model.start(encoder, scale=10.0, bias=-10.0)
    assert encoder.logit_scale.item() == pytest.approx(math.log(10.0))
    assert encoder.logit_bias.item() == -3.0


def test_a_siglip_run_of_an_open_clip_architecture_starts_where_siglip_does() -> None:
    """With a bias of 0 every one of the B² - B negatives would cost log 2 and more at the start."""
    model = OpenClip("ViT-B-32")
    encoder = model.build(0)
    model.start(encoder, scale=SigLIP.start_scale, bias=SigLIP.start_bias)
    torch.manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(64, 32), dim=-1) for _ in range(2))
    loss = SigLIP()(Embeddings(image, text, encoder.logit_scale.exp(), encoder.logit_bias * 1.0))
    assert 9 < loss.item() < 12
