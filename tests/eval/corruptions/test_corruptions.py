"""Every corruption, on a photograph and on a small picture: what it must do, and what it must not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.corruptions import STRENGTHS, Corruption
from eval.corruptions._filters import convolved, disk, gaussian, sampled
from eval.corruptions.brightness import Brightness
from eval.corruptions.contrast import Contrast
from eval.corruptions.defocus_blur import DefocusBlur
from eval.corruptions.fog import plasma
from eval.corruptions.gaussian_noise import DEVIATIONS, GaussianNoise
from eval.corruptions.impulse_noise import SHARES, ImpulseNoise
from eval.corruptions.pixelate import Pixelate
from eval.corruptions.shot_noise import PHOTONS, ShotNoise
from vlp.config.components import component, component_names

PHOTO = Path(__file__).parents[2] / "photos" / "china.jpg"
NAMES = component_names(Corruption)
MONOTONE = [name for name in NAMES if name not in ("elastic", "fog")]  # those two change their kind with the strength


def photo(side: int) -> torch.Tensor:
    picture = Image.open(PHOTO).convert("RGB").crop((100, 0, 500, 400)).resize((side, side))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().mean())


def test_there_are_the_corruptions_of_imagenet_c() -> None:
    assert set(NAMES) == {
        *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "motion_blur", "zoom_blur"),
        *("fog", "brightness", "contrast", "elastic", "pixelate", "jpeg"),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [64, 97])
def test_a_corruption_repeats_keeps_the_shape_and_changes_the_picture(name: str, side: int) -> None:
    kind, pixels = component(Corruption, name)(), photo(side)
    for strength in STRENGTHS:
        one = kind(pixels, strength, key="a")
        assert (one.shape, one.dtype) == (pixels.shape, torch.uint8)
        assert torch.equal(one, kind(pixels, strength, key="a"))
        assert distance(one, pixels) > 0.5


@pytest.mark.parametrize("name", MONOTONE)
def test_a_stronger_corruption_changes_more(name: str) -> None:
    kind, pixels = component(Corruption, name)(), photo(224)
    change = [distance(kind(pixels, strength, key="a"), pixels) for strength in STRENGTHS]
    assert change == sorted(change)


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "fog", "elastic"])
def test_what_is_random_depends_on_the_key_and_the_seed(name: str) -> None:
    kind, pixels = component(Corruption, name)(), photo(64)
    same = kind(pixels, 3, key="a", seed=1)
    assert not torch.equal(same, kind(pixels, 3, key="b", seed=1))
    assert not torch.equal(same, kind(pixels, 3, key="a", seed=2))


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur", "zoom_blur", "pixelate", "elastic", "contrast"])
def test_a_plain_picture_stays_plain(name: str) -> None:
    """Blurs sum to one, and edges are mirrored: nothing dark comes in from outside."""
    plain = torch.full((3, 64, 64), 200, dtype=torch.uint8)
    assert distance(component(Corruption, name)()(plain, 5, key="a"), plain) <= 1


def test_noise_has_the_published_size() -> None:
    grey = np.full((200, 200, 3), 0.5, np.float32)
    rng = np.random.default_rng(0)
    for strength in STRENGTHS:
        noise = GaussianNoise().corrupted(grey, strength, rng) - 0.5
        assert noise.std() == pytest.approx(DEVIATIONS[strength - 1], rel=0.02)
        photons = ShotNoise().corrupted(grey, strength, rng)
        assert photons.var() == pytest.approx(0.5 / PHOTONS[strength - 1], rel=0.03)
        struck = ImpulseNoise().corrupted(grey, strength, rng)
        assert (struck != 0.5).mean() == pytest.approx(SHARES[strength - 1], rel=0.05)
        assert set(np.unique(struck)) == {0, 0.5, 1}


def test_brightness_and_contrast_by_hand() -> None:
    rng = np.random.default_rng(0)
    picture = np.array([[[0.4, 0.2, 0.0], [0.0, 0.0, 0.0]]], np.float32)
    assert Brightness().corrupted(picture, 4, rng) == pytest.approx(
        np.array([[[0.8, 0.4, 0.0], [0.4, 0.4, 0.4]]]), abs=1e-6
    )
    flat = Contrast().corrupted(picture, 1, rng)
    assert flat == pytest.approx((picture - picture.mean(axis=(0, 1))) * 0.4 + picture.mean(axis=(0, 1)), abs=1e-6)


def test_pixelation_repeats_blocks() -> None:
    blocks = Pixelate().corrupted(photo(64).permute(1, 2, 0).numpy() / np.float32(255), 5, np.random.default_rng(0))
    assert (blocks.reshape(16, 4, 16, 4, 3) == blocks.reshape(16, 4, 16, 4, 3)[:, :1, :, :1]).all()


def test_lengths_are_in_proportion_to_the_picture() -> None:
    """Blurred at half the size, a picture is what the blurred picture is at half the size, nearly."""
    large = photo(224).permute(1, 2, 0).numpy() / np.float32(255)

    def half(picture: np.ndarray) -> np.ndarray:
        return picture.reshape(112, 2, 112, 2, 3).mean(axis=(1, 3)).astype(np.float32)

    rng = np.random.default_rng(0)
    first = half(np.asarray(DefocusBlur().corrupted(large, 4, rng)))
    second = DefocusBlur().corrupted(half(large), 4, rng)
    assert np.abs(first - second).mean() < 0.01


def test_filters_equal_the_sums_that_define_them() -> None:
    rng = np.random.default_rng(0)
    picture, kernel = rng.random((7, 6, 2)), rng.random((3, 5))
    wide = np.pad(picture, ((1, 1), (2, 2), (0, 0)), mode="reflect")
    expected = sum(kernel[i, j] / kernel.sum() * wide[i : i + 7, j : j + 6] for i in range(3) for j in range(5))
    assert convolved(picture, kernel) == pytest.approx(expected, abs=1e-6)
    assert gaussian(picture, 50.0).std(axis=(0, 1)).max() < 0.02  # a blur wider than the picture
    rows, columns = np.meshgrid(np.arange(7), np.arange(6), indexing="ij")
    assert sampled(picture, rows, columns) == pytest.approx(picture, abs=1e-5)
    assert sampled(picture, rows[:-1] + 0.5, columns[:-1]) == pytest.approx((picture[:-1] + picture[1:]) / 2, abs=1e-5)
    assert disk(3.0).sum() == pytest.approx(np.pi * 9, rel=0.02)


def test_clouds_fill_the_square_and_get_rougher_with_less_decay() -> None:
    smooth, rough = (plasma(64, decay, np.random.default_rng(0)) for decay in (3.0, 1.2))
    for clouds in (smooth, rough):
        assert (clouds.shape, clouds.min(), clouds.max()) == ((64, 64), 0, 1)
    assert np.abs(np.diff(rough, axis=0)).mean() > 3 * np.abs(np.diff(smooth, axis=0)).mean()
