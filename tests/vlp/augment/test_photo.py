from __future__ import annotations

import io
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from data_pipelines.decode import batch_memory, fill, fill_from, pixels
from data_pipelines.settings import Workers
from data_pipelines.stream import Stream
from vlp.augment.photo import Photo
from vlp.errors import UserError
from vlp.models.image_transform import EvaluationCrop, ImageTransform, RandomCrop
from vlp.models.tokenizer import Bpe
from vlp.pictures import Limits

PHOTO = sorted((Path(__file__).parents[2] / "photos").glob("*.jpg"))[0]
NOTHING = Photo(jitter_share=0.0, grey_share=0.0)
EVERY = [
    Photo(),
    Photo(jitter_share=1.0, grey_share=0.5, mirror_share=0.5, erase_share=0.5),
    *(
        replace(NOTHING, policy=name)
        for name in ("rand", "auto", "trivial", "augmix", "rand-m9-mstd0.5-inc1", "original")
    ),
]


def crop() -> torch.Tensor:
    return RandomCrop(48, (0.5, 1.0))(Image.open(PHOTO), random.Random(3))


@pytest.mark.parametrize("photo", EVERY, ids=lambda p: p.policy or f"{p.jitter_share:g}")
def test_chance_comes_from_the_sample_alone_and_no_other_generator_moves(photo: Photo) -> None:
    picture, results = crop(), []
    for noise in (1, 2):
        torch.manual_seed(noise)
        random.seed(noise)
        np.random.seed(noise)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
        results.append([photo.change(picture, random.Random(seed)) for seed in range(8)])
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == random.getstate()
        assert np.array_equal(before[2], np.random.get_state()[1])  # type: ignore[arg-type, index]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert len({r.numpy().tobytes() for r in results[0]}) > 2  # seeds differ
    assert all(r.shape == picture.shape and r.dtype == torch.uint8 for r in results[0])


def test_it_is_torchvisions_own() -> None:
    picture = crop()
    photo = Photo(jitter_share=1.0, grey_share=0.3, mirror_share=0.5)
    for seed in range(6):
        torch.manual_seed(random.Random(seed).getrandbits(32))
        expected = Image.fromarray(picture.permute(1, 2, 0).numpy())
        for op in (
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.32, 0.32, 0.32, 0.08)], 1.0),
            v2.RandomGrayscale(0.3),
        ):
            expected = op(expected)
        assert np.array_equal(photo.change(picture, random.Random(seed)).permute(1, 2, 0).numpy(), np.asarray(expected))


def test_nothing_asked_for_is_nothing_done() -> None:
    assert torch.equal(NOTHING.change(crop(), random.Random(0)), crop())


@pytest.mark.parametrize("inner", [RandomCrop(48, (0.5, 1.0)), EvaluationCrop(ImageTransform(48))], ids=["crop", "fit"])
def test_decoding_is_still_fused_with_the_crop(inner: RandomCrop | EvaluationCrop) -> None:
    """What is filled in is the fused crop, changed with the draws that come after the crop's."""
    out = io.BytesIO()
    Image.open(PHOTO).save(out, "PNG")
    whole = Photo(jitter_share=1.0).in_stream(inner)
    plain, changed, cached = (batch_memory(1, (3, 48, 48), torch.uint8)[0] for _ in range(3))
    rng = random.Random(7)
    fill(plain, out.getvalue(), inner, rng, Limits())
    fill(changed, out.getvalue(), whole, random.Random(7), Limits())
    assert torch.equal(changed, Photo(jitter_share=1.0).change(plain, rng))
    assert not torch.equal(changed, plain)
    fill_from(cached, pixels(out.getvalue(), Limits()), whole, random.Random(7))
    assert torch.equal(cached, changed)


def test_a_sample_looks_the_same_in_any_process_and_differently_in_each_epoch() -> None:
    stream = Stream("bundled:emoji/test_attr")
    transform = replace(NOTHING, policy="trivial").in_stream(EvaluationCrop(ImageTransform(32)))
    tokenizer = Bpe(vocab=300).train(["a"])
    seen = []
    for count in (0, 2):
        own = replace(stream, workers=Workers(count=count, start_method="fork"))
        batches = iter(own.open(transform=transform, tokenizer=tokenizer, global_batch=361, seed=5))
        seen.append([next(batches) for _ in range(2)])
    for a, b in zip(*seen, strict=True):
        assert torch.equal(a.image, b.image)
    first, second = seen[0]
    assert sorted(first.keys) == sorted(second.keys)
    places = [second.keys.index(key) for key in first.keys]
    same = [torch.equal(first.image[i], second.image[j]) for i, j in enumerate(places)]
    assert sum(same) < 0.3 * len(same)  # a policy may draw to do nothing


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"policy": "rnad"}, 'no policy of augment.policy is called "rnad"; did you mean "rand"'),
        ({"jitter": (0.1, 0.1, 0.1, 0.7)}, "hue turns by 0.5"),
    ],
)
def test_bad_settings_are_one_sentence(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Photo(**fields)  # type: ignore[arg-type]


def test_a_notation_that_timm_refuses_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r'timm does not know the policy "rand-x9" of augment.policy'):
        replace(NOTHING, policy="rand-x9").change(crop(), random.Random(0))
