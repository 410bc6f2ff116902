from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlp.errors import UserError
from vlp.models.adapt.wise_ft import blend
from vlp.models.image.resnet import ResNet
from vlp.models.image_transform import ImageTransform
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.release import Release
from vlp.models.text.transformer import Transformer
from vlp.models.tokenizer import Bpe

SMALL = TwoTowers(
    width=16, image=ResNet(widths=(8, 16), depths=(1, 1)), text=Transformer(24, 1, 2), bpe=Bpe(vocab=300, context=16)
)


def made(seed: int, config: TwoTowers = SMALL, captions: tuple[str, ...] = ("a red apple", "pears")) -> Release:
    tokenizer = config.tokenizer(captions)
    torch.manual_seed(seed)
    encoder = config.build(300)
    for norm in encoder.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()  # type: ignore[union-attr]
            norm.num_batches_tracked.fill_(seed + 3)  # type: ignore[union-attr, operator]
    return Release(encoder, tokenizer, config.transform(), "", f"model {seed}", config=config)


def test_each_weight_lies_so_far_between_the_two() -> None:
    first, second = made(0), made(1)
    a, b = first.encoder.state_dict(), second.encoder.state_dict()
    for alpha in (0.0, 0.25, 1.0):
        for name, mixed in blend(first, second, alpha).state_dict().items():
            if mixed.is_floating_point():
                torch.testing.assert_close(mixed, (1 - alpha) * a[name] + alpha * b[name])
                assert alpha != 1.0 or torch.equal(mixed, b[name])
                assert alpha != 0.0 or torch.equal(mixed, a[name])
            else:
                assert torch.equal(mixed, b[name])  # a count of batches


@pytest.mark.parametrize(
    "other, sentence",
    [
        (
            lambda: made(1, replace(SMALL, width=20)),
            r"the weight image_tower.head.weight is 16 x 16 in the first and 20 x 16",
        ),
        (
            lambda: made(1, replace(SMALL, text=Transformer(24, 2, 2))),
            r"the weight text_tower.layers.layers.1.\S+ is missing in the",
        ),
        (lambda: made(1, captions=("green plums", "one lemon")), "their tokenizers differ"),
        (lambda: replace(made(1), transform=ImageTransform(64, "squash")), "they prepare pictures differently"),
    ],
)
def test_models_that_are_not_alike_are_refused_in_a_sentence(other: object, sentence: str) -> None:
    with pytest.raises(UserError, match=f"model 0 and model 1 cannot be blended: {sentence}"):
        blend(made(0), other(), 0.5)  # type: ignore[operator]
